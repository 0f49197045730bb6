"""What a search tells where there is no terminal to draw on."""

import dataclasses
import io

import pytest
from rich.console import Console

from stillhouse.search.cli import live
from stillhouse.search.cli.live import PROGRESS_INTERVAL, LiveView
from stillhouse.search.monitoring.events import StageChanged, TrialReported


@pytest.fixture
def told(load, monkeypatch):
    """``told(at, event)``: the lines after an event at a time in seconds."""
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    view = LiveView(load(), Console(file=text, width=200))

    def tell(at, event):
        now[0] = at
        view(event)
        return text.getvalue().splitlines()

    return tell


def running(epoch):
    return StageChanged("a" * 64, "teacher", "running", epoch, 40)


def test_a_long_stage_is_heard_of_now_and_then(told):
    assert told(1.0, running(1)) == []
    assert told(PROGRESS_INTERVAL - 1, running(7)) == []
    (line,) = told(PROGRESS_INTERVAL + 1, running(8))
    assert line.endswith("stage teacher is at 8 of 40")
    assert len(told(PROGRESS_INTERVAL + 2, running(9))) == 1
    assert len(told(2 * PROGRESS_INTERVAL + 1, running(20))) == 2


def test_who_has_only_begun_is_no_news(told):
    assert told(PROGRESS_INTERVAL + 1, running(0)) == []


def test_a_stage_that_a_trial_has_to_make_is_told(told):
    (line,) = told(1.0, dataclasses.replace(running(0), in_trial=True))
    assert line.endswith("stage teacher finds no free slot: a waiting trial builds it")
    assert len(told(2.0, dataclasses.replace(running(1), in_trial=True))) == 1


def test_a_long_trial_is_heard_of_unless_others_are(told):
    assert len(told(PROGRESS_INTERVAL - 1, StageChanged("b" * 64, "assistant", "made"))) == 1
    assert len(told(PROGRESS_INTERVAL + 1, TrialReported(3, 5, {"val_accuracy": 0.5}))) == 1
    lines = told(2 * PROGRESS_INTERVAL, TrialReported(3, 9, {"val_accuracy": 0.5}))
    assert lines[-1].endswith("trial 3 is at epoch 9")
