"""A search in a real MLflow database: runs, parameters, curves, states, resumption."""

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.monitoring.events import (
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
)
from stillhouse.search.monitoring.mlflow import (
    NoSuchRun,
    check_reachable,
    fetch_artifact,
    is_prepared,
    prepare_store,
    runs_url,
)
from stillhouse.search.monitoring.mlflow import tracker as tracker_module
from stillhouse.search.monitoring.mlflow.client import client_settings
from stillhouse.search.monitoring.mlflow.locations import resolve_uri
from stillhouse.search.monitoring.mlflow.operations import begin, end, log
from stillhouse.search.monitoring.mlflow.sender import Sender
from stillhouse.search.monitoring.mlflow.tracker import Tracker, send_pending
from stillhouse.search.results.outcome import Outcome, SeedRuns, TrialResult
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError

DATA = {"source": {"digits": {"files": "abc"}}, "validation": 0.1, "version": 1}
SEARCH = {
    "student.training.lr": {"log_uniform": [0.01, 0.2]},
    "student.objective.soft_targets.weight": "declared",
}
EXPERIMENT = {
    "name": "tiny",
    "data": {"source": "digits"},
    "stages": {"teacher": {"network": "cnn8"}, "student": {"network": "cnn2"}},
    "search": SEARCH,
    "run": {"trials": 4, "sampler": "tpe"},
    "tracking": "http://user:secret@host",
}
VALUES = {"student.training.lr": 0.05, "student.objective.soft_targets.weight": 0.7}
TEACHER, STUDENT = "1" * 64, "2" * 64


def record(key=STUDENT, parents=(TEACHER,), curve=(), **figures) -> Record:
    return Record(
        key=key,
        name="student",
        kind="train",
        identity={"work": {"network": {"cnn": {"depth": 2}}, "weights": None}, "data": DATA},
        parents=parents,
        payload=Payload(name="a.safetensors", sha256="0" * 64, size=4321),
        figures=figures,
        curve=curve,
        facts={"device": "a processor", "versions": {"torch": "2", "git": "abc123"}},
        seconds=1.5,
        made_at="2026-01-01T00:00:00+00:00",
    )


def started(number, **values):
    keys = {"teacher": TEACHER, "student": STUDENT}
    costs = {"parameters": 272474.0, "flops": 41e6}
    return TrialStarted(number, values or VALUES, keys, costs)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    assert prepare_store(resolve_uri(None, folder), "other") == ""
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_database, tmp_path, monkeypatch):
    """A database of this test's own; the working directory must stay as it is."""
    shutil.copy(empty_database, tmp_path)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    yield resolve_uri(None, tmp_path)
    assert list(cwd.iterdir()) == []


@pytest.fixture
def track(uri, tmp_path):
    def run(*events, name="tiny", facts=None, at=uri):
        tracker = Tracker(at, name, tmp_path / "search", facts or {})
        for event in events:
            tracker(event)
        assert tracker.close(60) == 0, tracker.trouble

    return run


def runs(uri, name="tiny"):
    """Run name -> run, of one experiment; the names are unique in these tests."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id])
    named = {run.info.run_name: client.get_run(run.info.run_id) for run in found}
    assert len(named) == len(found)
    return client, named


def history(client, run, metric):
    points = client.get_metric_history(run.info.run_id, metric)
    return [(p.step, p.value) for p in sorted(points, key=lambda p: p.step)]


def test_a_whole_search(uri, track, tmp_path):
    curve = tuple({"epoch": float(e), "val_accuracy": e / 300} for e in range(1, 301))
    facts = {"device": "a processor", "git": "abc123"}
    teacher = record(TEACHER, (), curve, val_accuracy=1.0, parameters=9.0)
    track(
        SearchStarted("tiny", EXPERIMENT, False),
        StageChanged(TEACHER, "teacher", "queued"),
        StageChanged(TEACHER, "teacher", "running", 1, 300),
        StageChanged(TEACHER, "teacher", "made", record=teacher),
        StageChanged(TEACHER, "teacher", "running", 300, 300),
        StageChanged("3" * 64, "assistants/cnn4", "reused", record=record("3" * 64)),
        StageChanged("3" * 64, "assistants/cnn4", "reused", record=record("3" * 64)),
        StageChanged("3" * 64, "assistants/cnn4", "running", 1, 1),
        StageChanged("4" * 64, "assistants/cnn6", "failed", reason="out of memory"),
        started(0),
        TrialReported(0, 1, {"val_accuracy": 0.5, "train_loss": math.nan}),
        TrialReported(0, 2, {"val_accuracy": 0.75, "train_loss": math.inf}),
        started(1),
        TrialEnded(0, "finished", {"val_accuracy": 0.75, "latency_ms": 2.5}, record=record()),
        TrialReported(1, 1, {"val_accuracy": 0.1}),
        TrialEnded(1, "pruned", {"val_accuracy": 0.1}, reason="asha"),
        started(2),
        TrialEnded(2, "failed", reason="ValueError: no\n" + "x" * 9000),
        started(3),
        SearchEnded("finished"),
        facts=facts,
    )
    client, found = runs(uri)
    assert set(found) == {"tiny", "teacher", "assistants/cnn6", *(f"trial {n}" for n in range(4))}
    parent, trial = found["tiny"], found["trial 0"]

    states = {name: run.info.status for name, run in found.items()}
    assert states == {
        "tiny": "FINISHED",
        "teacher": "FINISHED",
        "assistants/cnn6": "FAILED",
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
        "trial 2": "FAILED",
        "trial 3": "KILLED",
    }
    children = [run for name, run in found.items() if name != "tiny"]
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent.info.run_id}

    assert trial.data.params == {
        "training.lr": "0.05",
        "objective.soft_targets.weight": "0.7",
    }
    assert history(client, trial, "val_accuracy") == [(1, 0.5), (2, 0.75)]
    losses = history(client, trial, "train_loss")
    assert math.isnan(losses[0][1])
    assert losses[1][1] > 1e300
    wanted = {"parameters": 272474, "flops": 41e6, "latency_ms": 2.5, "seconds": 1.5}
    assert wanted.items() <= trial.data.metrics.items()
    assert {
        "stillhouse.search": "tiny",
        "stillhouse.kind": "trial",
        "stillhouse.number": "0",
        "stillhouse.key": STUDENT,
        "stillhouse.key.teacher": TEACHER,
        "stillhouse.parents": TEACHER,
        "stillhouse.parameters": "272474",
        "stillhouse.device": "a processor",
        "stillhouse.state": "finished",
        "mlflow.source.git.commit": "abc123",
    }.items() <= trial.data.tags.items()
    assert found["trial 1"].data.tags["stillhouse.stopped_by"] == "asha"
    assert found["trial 2"].data.tags["stillhouse.reason"].startswith("ValueError: no")
    whole = client.download_artifacts(
        found["trial 2"].info.run_id, "stillhouse.reason.txt", str(tmp_path)
    )
    assert len(Path(whole).read_text()) == 9015
    assert found["trial 3"].data.tags["stillhouse.reason"] == "interrupted"

    teacher_run = found["teacher"]
    assert history(client, teacher_run, "val_accuracy") == [(e, e / 300) for e in range(1, 301)]
    assert teacher_run.data.params == {"network.cnn.depth": "2"}
    assert teacher_run.data.tags["stillhouse.kind"] == "stage"
    assert found["assistants/cnn6"].data.tags["stillhouse.reason"] == "out of memory"

    for run in (parent, trial, teacher_run):
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("digits", fingerprint(DATA)[:36])
        assert json.loads(data.dataset.source) == DATA
    assert parent.data.metrics["stages.made"] == parent.data.metrics["stages.reused"] == 1
    assert parent.data.tags["stillhouse.stage." + "3" * 12] == "reused assistants/cnn4"
    assert parent.data.tags["stillhouse.device"] == "a processor"
    assert parent.data.params["run.trials"] == "4"
    assert json.loads(parent.data.params["search.student.training.lr"]) == {
        "log_uniform": [0.01, 0.2]
    }
    shown = client.download_artifacts(parent.info.run_id, "experiment.yaml", str(tmp_path))
    assert "cnn8" in Path(shown).read_text()
    assert "secret" not in Path(shown).read_text()

    flat = client.search_runs(
        [parent.info.experiment_id], f"tags.`stillhouse.parents` = '{TEACHER}'"
    )
    assert {run.info.run_name for run in flat} == {f"trial {n}" for n in range(4)}
    assert parent.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())


def test_more_searched_values_than_one_call_takes(uri, track):
    values = {f"student.x.n{i}": "long" * 200 for i in range(230)}
    track(SearchStarted("tiny", {**EXPERIMENT, "search": {}}, False), started(0, **values))
    _, found = runs(uri)
    trial = found["trial 0"].data
    assert len(trial.params) == 230
    assert set(trial.params.values()) == {("long" * 200)[:500]}
    assert trial.tags["stillhouse.value.student.x.n229"] == "long" * 200


def test_a_resumed_search_goes_on_with_the_same_runs(uri, track):
    track(
        SearchStarted("tiny", EXPERIMENT, False),
        started(0),
        TrialReported(0, 1, {"val_accuracy": 0.5}),
        TrialEnded(0, "finished"),
        started(1),
        TrialReported(1, 1, {"val_accuracy": 0.25}),
        SearchEnded("interrupted", "stopped by the user"),
    )
    _, before = runs(uri)
    assert before["tiny"].info.status == before["trial 1"].info.status == "KILLED"
    assert before["tiny"].data.tags["stillhouse.reason"] == "stopped by the user"

    more = {**EXPERIMENT, "run": {"trials": 9}}
    track(SearchStarted("tiny", more, True), started(1, **{"student.training.lr": 9.0}))
    client, during = runs(uri)
    assert during["tiny"].info.status == during["trial 1"].info.status == "RUNNING"

    track(
        TrialReported(1, 2, {"val_accuracy": 0.5}),
        TrialEnded(1, "finished"),
        started(2),
        TrialEnded(2, "finished"),
        SearchEnded("finished"),
    )
    client, after = runs(uri)
    assert set(after) == {"tiny", "trial 0", "trial 1", "trial 2"}
    assert {n: after[n].info.run_id for n in before} == {n: before[n].info.run_id for n in before}
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert history(client, after["trial 1"], "val_accuracy") == [(1, 0.25), (2, 0.5)]
    assert after["trial 1"].data.params == before["trial 1"].data.params
    assert after["tiny"].data.params["run.trials"] == "4"
    assert after["tiny"].data.tags["stillhouse.state"] == "finished"


def test_an_experiment_that_takes_runs_is_known_without_loading_mlflow(uri, tmp_path):
    assert not is_prepared(f"sqlite:///{tmp_path}/nowhere.db", "tiny")
    damaged = tmp_path / "damaged.db"
    damaged.write_text("no database at all, but long enough to be mistaken for one" * 10)
    assert not is_prepared(f"sqlite:///{damaged}", "tiny")
    prepare_store(uri, "tiny")
    assert is_prepared(uri, "tiny")
    assert not is_prepared(uri, "nowhere to be found")
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    assert not is_prepared(uri, "tiny")


def test_a_delayed_tracker_sends_at_once_when_it_is_closed(uri, tmp_path):
    tracker = Tracker(uri, "tiny", tmp_path / "search", {}, delay=3600.0)
    tracker(SearchStarted("tiny", EXPERIMENT, False))
    tracker(started(0))
    assert tracker.num_pending > 0
    assert tracker.close(60) == 0
    assert set(runs(uri)[1]) == {"tiny", "trial 0"}


def test_two_searches_of_one_name_are_two_parents_in_one_experiment(uri, tmp_path):
    for folder in ("a", "b"):
        tracker = Tracker(uri, "tiny", tmp_path / folder, {})
        tracker(SearchStarted("tiny", EXPERIMENT, False))
        tracker(started(0))
        tracker(SearchEnded("finished"))
        assert tracker.close(60) == 0
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    parents = client.search_runs([experiment], "tags.`stillhouse.kind` = 'search'")
    trials = client.search_runs([experiment], "tags.`stillhouse.kind` = 'trial'")
    assert len(parents) == len(trials) == 2
    assert {r.data.tags["mlflow.parentRunId"] for r in trials} == {r.info.run_id for r in parents}


def test_sending_the_same_twice_changes_nothing(uri, tmp_path):
    operations = [
        begin("search", 1000, "tiny", {"a": "b"}),
        *log("search", 1001, params={"p": 1}, metrics={"m": 1.0, "n": math.nan}, step=1),
        begin("trial-1", 1002, "trial 1", {}),
        *log("trial-1", 1003, metrics={"m": 2.0}, step=3),
        end("trial-1", 1004, "FINISHED"),
        end("search", 1005, "FINISHED"),
    ]
    for _ in range(2):
        Sender(uri, "tiny", "token", tmp_path).send(operations)
    client, found = runs(uri)
    assert set(found) == {"tiny", "trial 1"}
    assert history(client, found["trial 1"], "m") == [(3, 2.0)]
    assert len(history(client, found["tiny"], "n")) == 1
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert (found["trial 1"].info.start_time, found["trial 1"].info.end_time) == (1002, 1004)


def test_a_creation_whose_answer_was_lost_is_found_again(uri, track, tmp_path):
    track(SearchStarted("tiny", EXPERIMENT, False), started(0))
    _, before = runs(uri)
    path = tmp_path / "search" / "tracking" / "runs.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"id": null' in line]
    assert len(lines) == 2
    path.write_text("\n".join(lines))
    track(TrialReported(0, 1, {"val_accuracy": 0.5}), SearchEnded("finished"))
    _, after = runs(uri)
    assert {n: run.info.run_id for n, run in after.items()} == {
        n: run.info.run_id for n, run in before.items()
    }


def test_what_mlflow_refuses_is_set_aside_and_the_rest_goes_on(uri, track, tmp_path):
    track(SearchStarted("tiny", EXPERIMENT, False), started(0), started(1))
    client, found = runs(uri)
    client.delete_run(found["trial 0"].info.run_id)
    track(
        TrialReported(0, 1, {"val_accuracy": 0.5}),
        TrialReported(1, 1, {"val_accuracy": 0.5}),
        TrialEnded(1, "finished"),
    )
    _, after = runs(uri)
    assert after["trial 1"].info.status == "FINISHED"
    assert history(client, after["trial 1"], "val_accuracy") == [(1, 0.5)]
    (refused,) = (tmp_path / "search/tracking/refused.jsonl").read_text().splitlines()
    assert json.loads(refused)["metrics"] == {"val_accuracy": 0.5}
    assert "active" in json.loads(refused)["reason"]


def test_an_experiment_deleted_under_a_search_may_be_restored(uri, tmp_path, track):
    track(SearchStarted("tiny", EXPERIMENT, False), started(0))
    client, found = runs(uri)
    experiment = found["tiny"].info.experiment_id
    tracker = Tracker(uri, "tiny", tmp_path / "search", {})
    client.delete_experiment(experiment)
    tracker(TrialReported(0, 1, {"val_accuracy": 0.5}))
    tracker(started(1))
    assert tracker.close(60) == 3
    assert "mlflow experiments restore" in tracker.trouble
    assert not (tmp_path / "search/tracking/refused.jsonl").exists()
    client.restore_experiment(experiment)
    assert send_pending(tmp_path / "search") == 0
    client, found = runs(uri)
    assert history(client, found["trial 0"], "val_accuracy") == [(1, 0.5)]
    assert set(found) == {"tiny", "trial 0", "trial 1"}


def test_a_database_replaced_under_a_search_gets_its_runs(track, tmp_path, empty_database):
    track(SearchStarted("tiny", EXPERIMENT, False), started(0))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(empty_database, elsewhere)
    other = resolve_uri(None, elsewhere)
    track(SearchStarted("tiny", EXPERIMENT, True), started(1), SearchEnded("finished"), at=other)
    _, found = runs(other)
    assert set(found) == {"tiny", "trial 1"}


DRIVER = """
import os, signal, sys
from pathlib import Path
from stillhouse.search.monitoring.events import SearchStarted, TrialStarted, TrialReported
from stillhouse.search.monitoring.mlflow.tracker import Tracker
tracker = Tracker(sys.argv[1], "tiny", Path(sys.argv[2]), {})
tracker(SearchStarted("tiny", {"name": "tiny"}, False))
tracker(TrialStarted(0, {"lr": 1.0}, {}, {}))
tracker(TrialReported(0, 1, {"val_accuracy": 0.5}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_a_killed_driver_had_not_sent_is_sent_by_the_next(uri, track, tmp_path):
    nowhere = f"http://127.0.0.1:{unused_port()}"
    command = [sys.executable, "-c", DRIVER, nowhere, str(tmp_path / "search")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = send_pending(tmp_path / "search")
    assert left == 6  # the search begins, its file, parameters; the trial begins, values; report
    track(SearchStarted("tiny", EXPERIMENT, True), TrialReported(0, 2, {"val_accuracy": 0.75}))
    client, found = runs(uri)
    assert history(client, found["trial 0"], "val_accuracy") == [(1, 0.5), (2, 0.75)]
    assert found["trial 0"].data.params == {"lr": "1.0"}


def test_a_server_that_never_answers_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracker = Tracker(uri, "tiny", tmp_path, {})
        tracker(SearchStarted("tiny", EXPERIMENT, False))
        connection, _ = silent.accept()  # now the thread waits for an answer
        tracker(started(0))
        for epoch in range(1, 101):
            tracker(TrialReported(0, epoch, {"val_accuracy": epoch / 100}))
        tracker(SearchEnded("finished"))
        assert tracker.close(0.05) == tracker.num_pending == 108
        connection.close()
    tracker._thread.join()
    assert send_pending(tmp_path) == 108


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with client_settings():
        with client_settings():
            assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert dict(os.environ) == before


def test_the_outcome_is_on_the_search(uri, tmp_path):
    tracker = Tracker(uri, "tiny", tmp_path, {})
    tracker(SearchStarted("tiny", EXPERIMENT, False))
    tracker(SearchEnded("finished"))
    report, best = tmp_path / "report.html", tmp_path / "best.yaml"
    report.write_text("<html>")
    best.write_text("name: best")
    seeds = (record(val_accuracy=0.5), record(val_accuracy=0.75))
    outcome = Outcome(
        name="tiny",
        goals=(Goal("val_accuracy", True),),
        trials=(TrialResult(0, "finished", {}, {}), TrialResult(1, "pruned", {}, {})),
        seed_runs=(SeedRuns("trial 0", (0, 1), seeds),),
        records={},
        labels={},
        made_keys=frozenset({TEACHER}),
        reused_keys=frozenset(),
        importances={"student.training.lr": 0.9},
        seconds=12.0,
    )
    tracker.log_outcome(outcome, [report, best], {"val_accuracy": 0.75}, winning_trial=0)
    assert tracker.close(60) == 0
    client, found = runs(uri)
    metrics = found["tiny"].data.metrics
    assert metrics.pop("repeats.trial 0.val_accuracy.spread") == pytest.approx(0.125 * 2**0.5)
    assert metrics == {
        "best.val_accuracy": 0.75,
        "seconds": 12.0,
        "stages.made": 1.0,
        "stages.reused": 0.0,
        "trials.finished": 1.0,
        "trials.pruned": 1.0,
        "importance.training.lr": 0.9,
        "repeats.trial 0.val_accuracy.mean": 0.625,
    }
    assert found["tiny"].data.tags["stillhouse.winner"] == "trial 0"
    assert found["tiny"].info.status == "FINISHED"
    paths = {file.path for file in client.list_artifacts(found["tiny"].info.run_id)}
    assert paths == {"report.html", "best.yaml", "experiment.yaml"}


RACER = """
import sys
from stillhouse.search.monitoring.mlflow.client import prepare_store
assert prepare_store(sys.argv[1], "race") == ""
"""


def test_several_drivers_create_one_database(tmp_path):
    uri = resolve_uri(None, tmp_path / "a folder, 100%")
    command = [sys.executable, "-c", RACER, uri]
    racers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [racer.communicate()[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 3, errors
    from mlflow import MlflowClient

    named = [found.name for found in MlflowClient(uri).search_experiments()]
    assert named.count("race") == 1


def test_a_deleted_experiment_is_the_users_to_restore(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("other").experiment_id)
    with pytest.raises(ConfigError, match="mlflow experiments restore"):
        prepare_store(uri, "other")


def test_a_dead_server_is_told_not_raised():
    dead = f"127.0.0.1:{unused_port()}"
    assert "refused" in prepare_store(f"http://{dead}", "tiny")
    assert "refused" in prepare_store(f"postgresql://{dead}/mlflow", "tiny")
    with pytest.raises(ConfigError, match=r"tracking: http://.* cannot be used: .*refused"):
        check_reachable(f"http://{dead}")
    assert runs_url(f"http://{dead}/", "tiny") == f"http://{dead}/#/experiments"


def test_a_database_that_cannot_be_used_is_the_users_mistake(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    uri = resolve_uri(None, tmp_path)
    for check in (check_reachable, lambda uri: prepare_store(uri, "tiny")):
        with pytest.raises(ConfigError, match=r"tracking: sqlite.* cannot be used: .*not a data"):
            check(uri)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="tracking: sqlite"):
        prepare_store(resolve_uri(None, tmp_path / "file"), "tiny")


def test_a_database_of_an_older_mlflow_is_the_users_to_upgrade(uri, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        database.commit()
    with pytest.raises(ConfigError, match="mlflow db upgrade"):
        prepare_store(uri, "tiny")


def test_trying_a_store_leaves_nothing_there(uri, tmp_path):
    check_reachable(uri)
    before = sorted(tmp_path.iterdir())
    check_reachable(resolve_uri(None, tmp_path / "new"))
    assert sorted(tmp_path.iterdir()) == before


def test_an_artifact_comes_back(uri, track):
    track(SearchStarted("tiny-1", EXPERIMENT, False))
    run_id = runs(uri)[1]["tiny-1"].info.run_id
    file = fetch_artifact(uri, run_id, "experiment.yaml")
    assert file is not None
    assert "cnn8" in file.read_text()
    with pytest.raises(ConfigError, match=r"is 'tiny-1' in sqlite:.* and has no best\.yaml"):
        fetch_artifact(uri, run_id, "best.yaml")
    for other in ("0" * 32, "no id at all"):
        with pytest.raises(NoSuchRun, match="no such run"):
            fetch_artifact(uri, other, "best.yaml")
    with pytest.raises(NoSuchRun, match="no database"):
        fetch_artifact(f"{uri}.other", run_id, "best.yaml")


def test_the_page_of_a_search(uri):
    page = runs_url(uri, "other", port=5001)
    assert page.startswith("http://127.0.0.1:5001/#/experiments/")
    assert page.endswith("/runs")


def test_mlflow_is_imported_late():
    code = "import stillhouse.search.monitoring.mlflow, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert tracker_module.BATCH_SECONDS > 0
