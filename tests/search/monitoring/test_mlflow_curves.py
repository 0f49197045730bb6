"""Curves in a real MLflow database: one point a step, however often work is done or told."""

import json
import math
import shutil

import pytest

from stillhouse.search.monitoring.events import (
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
)
from stillhouse.search.monitoring.mlflow import prepare_store
from stillhouse.search.monitoring.mlflow.locations import resolve_uri
from stillhouse.search.monitoring.mlflow.operations import begin, log
from stillhouse.search.monitoring.mlflow.tracker import Tracker, send_pending
from tests.search.monitoring.test_mlflow import EXPERIMENT, TEACHER, history, record, runs, started

CURVE = tuple({"epoch": float(e), "val_accuracy": e / 10} for e in range(1, 6))
FULL = [(e, e / 10) for e in range(1, 6)]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    assert prepare_store(resolve_uri(None, folder), "tiny") == ""
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path)
    return resolve_uri(None, tmp_path)


@pytest.fixture
def track(uri, tmp_path):
    """Have a tracker of its own, as each launch has, tell events to the end."""

    def run(*events):
        tracker = Tracker(uri, "tiny", tmp_path / "search", {})
        for event in events:
            tracker(event)
        assert tracker.close(60) == 0, tracker.trouble

    return run


def begun(resumed=False):
    return SearchStarted("tiny", EXPERIMENT, resumed)


def reports(number, *epochs):
    return [TrialReported(number, e, {"val_accuracy": e / 10}) for e in epochs]


def steps(client, run):
    """Metric -> its steps, of all metrics of a run."""
    found = {}
    for name in run.data.metrics:
        found[name] = sorted(p.step for p in client.get_metric_history(run.info.run_id, name))
    return found


def every_step_once(client, found):
    for run in found.values():
        for name, told in steps(client, run).items():
            assert len(told) == len(set(told)), (run.info.run_name, name, told)


def test_a_resumed_trial_has_one_point_an_epoch(uri, track):
    track(begun(), started(0), *reports(0, 1, 2, 3), SearchEnded("interrupted", "stopped"))
    track(
        begun(resumed=True),
        started(0),
        *reports(0, 1, 2, 3, 4, 5),
        TrialEnded(0, "finished", {"val_accuracy": 0.5}, record=record(curve=CURVE)),
        SearchEnded("finished"),
    )
    client, found = runs(uri)
    assert history(client, found["trial 0"], "val_accuracy") == FULL
    every_step_once(client, found)


def test_a_trial_started_again_in_one_process_has_one_point_an_epoch(uri, track):
    track(
        begun(),
        started(0),
        *reports(0, 1, 2, 3),
        *reports(0, 1, 2, 3, 4, 5),  # its worker was lost, and Tune has started it again
        TrialEnded(0, "finished", record=record(curve=CURVE)),
        SearchEnded("finished"),
    )
    client, found = runs(uri)
    assert history(client, found["trial 0"], "val_accuracy") == FULL
    every_step_once(client, found)


def test_what_a_killed_driver_had_sent_and_not_noted_is_not_doubled(uri, track, tmp_path):
    tracker = Tracker(uri, "tiny", tmp_path / "search", {}, delay=3600.0)
    for event in (begun(), started(0), *reports(0, 1, 2, 3)):
        tracker(event)
    operations = tmp_path / "search/tracking/operations.jsonl"
    unsent = operations.read_bytes()
    assert tracker.close(60) == 0
    operations.write_bytes(unsent)  # as it stood before MLflow's answer was noted
    (tmp_path / "search/tracking/sent.json").unlink()
    noted = tmp_path / "search/tracking/runs.jsonl"
    attempts = [line for line in noted.read_text().splitlines() if '"id": null' in line]
    noted.write_text("\n".join(attempts))
    track(begun(resumed=True), started(0), *reports(0, 1, 2, 3, 4, 5), SearchEnded("finished"))
    client, found = runs(uri)
    assert history(client, found["trial 0"], "val_accuracy") == FULL
    every_step_once(client, found)


def test_a_trial_found_in_the_library_has_its_whole_curve(uri, track):
    figures = {"val_accuracy": 0.5, "parameters": 9.0}
    track(
        begun(),
        started(0),
        TrialReported(0, 5, figures),  # what is there reports its end alone
        TrialEnded(0, "finished", figures, record=record(curve=CURVE, **figures)),
        SearchEnded("finished"),
    )
    client, found = runs(uri)
    assert history(client, found["trial 0"], "val_accuracy") == FULL
    every_step_once(client, found)


def test_the_last_point_of_a_curve_is_the_figure_of_what_was_kept(uri, track):
    kept = record(TEACHER, (), CURVE, val_accuracy=0.4, parameters=9.0)
    track(begun(), StageChanged(TEACHER, "teacher", "made", record=kept), SearchEnded("finished"))
    client, found = runs(uri)
    assert history(client, found["teacher"], "val_accuracy") == [*FULL[:-1], (5, 0.4)]
    every_step_once(client, found)


def test_a_stage_made_again_has_one_curve(uri, track):
    teacher = record(TEACHER, (), CURVE, val_accuracy=0.5)
    running = StageChanged(TEACHER, "teacher", "running", 1, 5)
    made = StageChanged(TEACHER, "teacher", "made", record=teacher)
    track(begun(), running, made, SearchEnded("interrupted"))
    track(begun(resumed=True), running, made, SearchEnded("finished"))
    client, found = runs(uri)
    assert found["teacher"].info.status == "FINISHED"
    assert history(client, found["teacher"], "val_accuracy") == FULL
    every_step_once(client, found)


def test_a_stage_that_was_made_while_no_driver_listened_is_completed(uri, track):
    teacher = record(TEACHER, (), CURVE, val_accuracy=0.5)
    other = record("3" * 64, (), CURVE, val_accuracy=0.5)
    track(begun(), StageChanged(TEACHER, "teacher", "running", 1, 5), SearchEnded("interrupted"))
    track(
        begun(resumed=True),
        StageChanged(TEACHER, "teacher", "reused", record=teacher),
        StageChanged("3" * 64, "assistants/cnn4", "reused", record=other),
        SearchEnded("finished"),
    )
    client, found = runs(uri)
    assert set(found) == {"tiny", "teacher"}  # what another search made has no run here
    assert found["teacher"].info.status == "FINISHED"
    assert found["teacher"].data.tags["stillhouse.state"] == "made"
    assert "stillhouse.reason" not in found["teacher"].data.tags
    assert history(client, found["teacher"], "val_accuracy") == FULL
    assert found["tiny"].data.metrics["stages.reused"] == 2


def test_a_stage_that_another_search_finishes_is_completed(uri, track):
    teacher = record(TEACHER, (), CURVE, val_accuracy=0.5)
    track(
        begun(),
        StageChanged(TEACHER, "teacher", "running", 1, 5),
        StageChanged(TEACHER, "teacher", "reused", record=teacher),
        SearchEnded("finished"),
    )
    client, found = runs(uri)
    assert found["teacher"].info.status == "FINISHED"
    assert history(client, found["teacher"], "val_accuracy") == FULL


def test_figures_of_the_search_take_the_next_step_and_the_newest_is_last(uri, track):
    def counted(number, state):
        key = str(number) * 64
        return StageChanged(key, f"stage {number}", state, record=record(key, (), CURVE))

    track(begun(), *(counted(n, "reused") for n in (1, 2, 3)), SearchEnded("interrupted"))
    track(begun(resumed=True), counted(1, "reused"), SearchEnded("finished"))
    client, found = runs(uri)
    assert history(client, found["tiny"], "stages.reused") == [(0, 1), (1, 2), (2, 3), (3, 1)]
    assert found["tiny"].data.metrics["stages.reused"] == 1  # of the newest launch


def test_numbers_that_are_none_are_told_once(uri, track):
    odd = [TrialReported(0, 1, {"a": math.nan, "b": math.inf, "c": -math.inf})]
    track(begun(), started(0), *odd)
    track(begun(resumed=True), started(0), *odd, SearchEnded("finished"))
    client, found = runs(uri)
    every_step_once(client, found)
    assert {"a", "b", "c"} <= set(steps(client, found["trial 0"]))


def test_a_run_that_goes_on_loses_how_it_had_ended(uri, track):
    track(begun(), started(0), SearchEnded("failed", "the disk is full"))
    _, found = runs(uri)
    assert found["tiny"].info.status == "FAILED"
    assert found["tiny"].data.tags["stillhouse.reason"] == "the disk is full"
    track(begun(resumed=True), started(0))
    _, found = runs(uri)
    for name in ("tiny", "trial 0"):
        assert found[name].info.status == "RUNNING"
        assert not {"stillhouse.state", "stillhouse.reason"} & set(found[name].data.tags)
    track(TrialEnded(0, "finished"), SearchEnded("finished"))
    _, found = runs(uri)
    assert found["tiny"].data.tags["stillhouse.state"] == "finished"
    assert found["trial 0"].data.tags["stillhouse.state"] == "finished"


REFUSED = {
    "a name": {"params": {}, "metrics": {"no {such} name": 1.0}, "tags": {}},
    "a long name": {"params": {"x" * 300: "1"}, "metrics": {}, "tags": {}},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_for_good_is_put_aside_and_counted(uri, tmp_path, caplog, what):
    tracker = Tracker(uri, "tiny", tmp_path / "search", {})
    bad = {"do": "log", "run": "trial-0", "at": 1, "step": 1, **REFUSED[what]}
    tracker(begun())
    tracker._append([begin("trial-0", 1, "trial 0", {}), bad])
    tracker._append(log("trial-0", 2, metrics={"good": 1.0}, step=2))
    tracker(started(1))
    tracker(SearchEnded("finished"))
    assert tracker.close(60) == 0, tracker.trouble
    client, found = runs(uri)
    assert history(client, found["trial 0"], "good") == [(2, 1.0)]
    assert set(found) == {"tiny", "trial 0", "trial 1"}
    state = tracker.state()
    assert (state["unsent"], state["refused"], state["trouble"]) == (0, 1, "")
    assert state["refusal"]
    aside = (tmp_path / "search/tracking/refused.jsonl").read_text().splitlines()
    assert bad in [{k: v for k, v in json.loads(line).items() if k != "reason"} for line in aside]
    warned = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert len(warned) == 1
    assert not any("\n" in line for line in warned)
    assert Tracker(uri, "tiny", tmp_path / "search", {}).state()["refused"] == 1


def test_a_deleted_run_is_one_line_with_the_remedy(uri, track, tmp_path, caplog):
    track(begun(), started(0), started(1))
    client, found = runs(uri)
    run_id = found["trial 0"].info.run_id
    client.delete_run(run_id)
    tracker = Tracker(uri, "tiny", tmp_path / "search", {}, delay=3600.0)
    for event in (*reports(0, 1, 2, 3), *reports(1, 1), TrialEnded(0, "finished")):
        tracker(event)
    assert tracker.close(60) == 0
    (line,) = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert f"MLFLOW_TRACKING_URI={uri} mlflow runs restore --run-id {run_id}" in line
    assert tracker.state()["refused"] == 5
    client, found = runs(uri)
    assert history(client, found["trial 1"], "val_accuracy") == [(1, 0.1)]


def test_a_deleted_experiment_is_one_line_with_the_remedy_and_loses_nothing(uri, track, tmp_path):
    track(begun(), started(0))
    client, found = runs(uri)
    experiment = found["tiny"].info.experiment_id
    client.delete_experiment(experiment)
    tracker = Tracker(uri, "tiny", tmp_path / "search", {}, delay=3600.0)
    for event in reports(0, 1, 2):
        tracker(event)
    assert tracker.close(60) == 2
    command = f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {experiment}"
    assert command in tracker.trouble
    assert "\n" not in tracker.trouble
    client.restore_experiment(experiment)
    assert send_pending(tmp_path / "search") == 0
    client, found = runs(uri)
    assert history(client, found["trial 0"], "val_accuracy") == [(1, 0.1), (2, 0.2)]
