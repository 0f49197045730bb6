"""How a search stands, folded from its events: closed forms for counts, the best and what waits."""

import json
import time

import pytest

from stillhouse.search.cli.live import settings_text, state_counts_text
from stillhouse.search.cli.status import _headline, _problem_lines, _tables
from stillhouse.search.monitoring.events import (
    RequiredStage,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
)
from stillhouse.search.monitoring.publisher import MAX_MISSED_HEARTBEATS, heartbeat_overdue
from stillhouse.search.monitoring.status import MAX_MESSAGES, SearchStatus

TEACHER, SIX = RequiredStage("t", "teacher", ()), RequiredStage("s", "assistants/cnn6", ("t",))
SMALL = {"parameters": 10.0}


@pytest.fixture
def standing(load):
    standing = SearchStatus(load())
    standing(SearchStarted("tiny-3", {}, True, {"finished": 2}, (0.5, 1), 6))
    return standing


def ended(number, state="finished", accuracy=0.0, parameters=10.0, reason=""):
    figures = {"val_accuracy": accuracy, "parameters": parameters}
    return TrialEnded(number, state, figures, reason)


def test_what_waits_for_what(standing):
    standing(TrialWaiting(2, (TEACHER, SIX)))
    standing(TrialWaiting(3, (TEACHER,)))
    assert [need.label for need in standing.missing_stages(2)] == ["teacher", "assistants/cnn6"]
    assert standing.blocked_stages() == {
        "t": ("teacher", []),
        "s": ("assistants/cnn6", ["teacher"]),
    }

    standing(StageChanged("t", "teacher", "queued", epochs=4))
    standing(StageChanged("t", "teacher", "running", 1, 4, node="10.0.0.2 (abc)"))
    assert standing.blocked_stages() == {"s": ("assistants/cnn6", ["teacher"])}
    told = standing.plain(10)
    (row,) = told["stages"]["open"]
    assert (row["state"], row["epoch"], row["epochs"], row["node"]) == (
        "running",
        1,
        4,
        "10.0.0.2 (abc)",
    )
    assert told["trials"]["waiting"] == [
        {"number": 2, "for": ["teacher", "assistants/cnn6"]},
        {"number": 3, "for": ["teacher"]},
    ]

    standing(StageChanged("t", "teacher", "made"))
    standing(StageChanged("t", "teacher", "running", 4, 4))  # said again by who asks for it later
    assert standing.open_stages == {}
    assert standing.missing_stages(3) == []
    assert standing.blocked_stages() == {"s": ("assistants/cnn6", [])}
    standing(TrialStarted(3, {"student.training.lr": 0.1}, {}, {}))
    standing(TrialReported(3, 2, {"val_accuracy": 0.25}))
    told = standing.plain(10)
    assert [t["number"] for t in told["trials"]["waiting"]] == [2]
    assert told["trials"]["running"] == [
        {
            "number": 3,
            "epoch": 2,
            "value": 0.25,
            "values": {"student.training.lr": 0.1},
            "for": [],
        }
    ]


def test_a_stage_that_failed_waits_for_nothing(standing):
    standing(TrialWaiting(2, (TEACHER,)))
    standing(StageChanged("t", "teacher", "failed", reason="out of memory"))
    assert standing.blocked_stages() == {}
    assert standing.plain(10)["stages"]["failed"] == 1
    assert standing.failures == ["stage teacher: out of memory"]


def test_the_best_keeps_the_limits_and_goes_on_from_earlier(standing):
    assert standing.best == (0.5, 1)
    standing(ended(2, accuracy=0.4))
    standing(ended(3, accuracy=0.9, parameters=1001.0))
    standing(ended(4, "pruned", accuracy=0.8))
    assert standing.best == (0.5, 1)
    standing(ended(5, accuracy=0.6))
    assert standing.best == (0.6, 5)
    assert standing.ended_counts == {"finished": 5, "pruned": 1}
    assert state_counts_text(standing.ended_counts) == "5 finished, 1 pruned"


def test_time_left_counts_the_trials_of_this_launch(standing):
    assert standing.seconds_left() is None
    standing.launched_at = time.time() - 30
    standing(ended(2))
    standing(ended(3, "failed", reason="nan"))
    # Two of six had ended before; two took 30 s, so the other two take as long.
    assert standing.seconds_left() == pytest.approx(30, abs=1)
    standing(ended(4))
    standing(ended(5))
    assert standing.seconds_left() is None


def test_many_failures_are_counted_and_the_last_told(standing):
    for number in range(MAX_MESSAGES + 5):
        standing(ended(number, "failed", reason="nan"))
    assert standing.ended_counts["failed"] == MAX_MESSAGES + 5
    assert len(standing.failures) == MAX_MESSAGES
    assert standing.failures[-1] == f"trial {MAX_MESSAGES + 4}: nan"


def test_silence_is_no_state_but_an_overdue_sign_of_life():
    told = {"state": "running", "at": 1000.0, "every": 10.0}
    assert heartbeat_overdue(told, 1000.0 + MAX_MISSED_HEARTBEATS * 10.0) is None
    assert (
        heartbeat_overdue(told, 1001.0 + MAX_MISSED_HEARTBEATS * 10.0)
        == 1.0 + MAX_MISSED_HEARTBEATS * 10.0
    )
    assert heartbeat_overdue({**told, "state": "finished"}, 9999.0) is None


def test_values_are_named_by_what_tells_them_apart():
    assert settings_text({"a.lr": 0.12345, "b.weight": 1}) == "lr 0.123, weight 1"


def snapshot(standing, **changes):
    plain = {
        "name": "tiny-3",
        "state": standing.state,
        "reason": standing.reason,
        "at": 1000.0,
        "every": 15.0,
        "heard": 990.0,
        "seconds": 75.0,
        "seconds_left": 30.0,
        "driver": {"host": "head", "pid": 1, "folder": "/runs/tiny-3"},
        "library": {"place": "s3://b/p", "unwritten": ""},
        "tracking": {"unsent": 0, "trouble": ""},
        "nodes": [],
        **standing.plain(100),
    }
    return json.loads(json.dumps({**plain, **changes}))


def test_what_people_read(standing):
    standing(TrialWaiting(2, (TEACHER, SIX)))
    standing(StageChanged("t", "teacher", "queued", epochs=4))
    told = snapshot(standing)
    assert list(_headline(told, 1004.0)) == [
        "tiny-3: running for 1 min 15 s, about 30 s left",
        "last sign of life 4 s ago, last news 14 s ago",
        "2 of 6 trials: 2 finished",
        "best val_accuracy: 0.5000 (trial 1)",
        "stages: 0 made, 0 reused, 0 running, 1 queued, 1 waiting, 0 failed",
    ]
    rows = {columns[0]: rows for columns, rows in _tables(told)}
    assert rows["waiting trial"] == [(2, "teacher, assistants/cnn6")]
    assert rows["stage"] == [
        ("teacher", "queued", "", "a slot"),
        ("assistants/cnn6", "waiting", "", "teacher"),
    ]
    assert list(_problem_lines(told)) == []

    standing(StageChanged("t", "teacher", "running", 1, 4, node="10.0.0.2 (abc)", in_trial=True))
    standing(TrialStarted(2, {"lr": 0.1}, {}, {}))
    rows = {columns[0]: rows for columns, rows in _tables(snapshot(standing))}
    assert (2, "waits for teacher, assistants/cnn6", "", "lr 0.1") in rows["running trial"]
    assert rows["stage"] == [
        (
            "teacher",
            "running",
            "1 of 4",
            "10.0.0.2 (abc), in the slot of a trial that waits for it",
        ),
        ("assistants/cnn6", "waiting", "", "teacher"),
    ]

    first, second, third, *_ = _headline(told, 1600.0)
    assert first == "tiny-3: no sign of life for 10 min 00 s, after 1 min 15 s of running"
    assert "on head" in second
    assert third == "go on with: stillhouse resume tiny-3"

    standing(SearchEnded("failed", "the disk is full"))
    told = snapshot(standing, tracking={"unsent": 7, "trouble": "Connection refused"})
    first = next(iter(_headline(told, 1600.0)))
    assert first == "tiny-3: failed (the disk is full), 10 min 00 s ago, after 1 min 15 s"
    assert list(_problem_lines(told)) == ["\nMLflow has not got 7 entries yet: Connection refused"]
    refused = {"unsent": 0, "trouble": "", "refused": 2, "refusal": "no such name"}
    (line,) = _problem_lines(snapshot(standing, tracking=refused))
    assert "refused 2 entries, kept in tracking/refused.jsonl: no such name" in line
