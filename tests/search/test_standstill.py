"""Tune stands still while it has nothing to run, and its idle actors keep every slot."""

import pytest

from search.events import StageChanged, TrialStarted
from search.launching import launch

STUDENTS = 4


@pytest.mark.ray
def test_a_stage_is_made_though_idle_actors_hold_every_slot(load, tmp_path, monkeypatch):
    """Students without an assistant fill both slots; those that follow need a missing one."""
    monkeypatch.chdir(tmp_path)
    space = {
        "assistants.networks": {"choice": [[], ["cnn4"]]},
        "student.seed": {"choice": list(range(STUDENTS))},
    }
    run = {"trials": 2 * STUDENTS, "sampler": "grid", "concurrent": 2}
    experiment = load({f"run.{name}": value for name, value in run.items()}, search=space)
    heard = []
    launched = launch(experiment, observers=[heard.append])
    assert [trial.state for trial in launched.outcome.trials] == ["finished"] * 2 * STUDENTS
    made = [
        isinstance(e, StageChanged) and e.label == "assistants/cnn4" and e.state == "made"
        for e in heard
    ]
    needing = [isinstance(e, TrialStarted) and e.number == STUDENTS for e in heard]
    assert made.count(True) == 1
    assert needing.index(True) < made.index(True)
