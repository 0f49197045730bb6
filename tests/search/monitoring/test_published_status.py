"""What a driver tells of its search: to its folder and its library, and that it was killed."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from stillhouse.search.artifacts.need import RunRef, RunReferences
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.app import app
from stillhouse.search.driver.launch import launch
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring import publisher
from stillhouse.search.monitoring.events import (
    RequiredStage,
    SearchEnded,
    StageChanged,
    TrialStarted,
    TrialWaiting,
)
from stillhouse.search.monitoring.status import SearchStatus
from stillhouse.search.results.run_folder import RunFolder


def told(*words, status=0):
    result = CliRunner().invoke(app, ["status", *words])
    assert result.exit_code == status, result.output
    return result.stdout


def test_a_search_is_seen_from_where_its_library_is(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(publisher, "PUBLISH_INTERVAL", 0.02)
    tiny["run"]["trials"] = 2
    tiny["tracking"] = f"sqlite:///{tmp_path}/mlflow.db"
    states = []

    def look(_):
        written = tmp_path / "runs" / "tiny-1" / "status.json"
        if written.exists():
            states.append(json.loads(written.read_text())["state"])  # whole whenever it is read

    launched = launch(load_experiment(tiny), inline=True, observers=(look,))
    assert set(states[:-1]) == {"running"}

    here = json.loads(told("tiny", "--json"))
    assert (here["state"], here["trials"]["ended"]) == ("finished", {"finished": 2})
    assert here["trials"]["best"]["value"] == max(
        trial.figures["val_accuracy"] for trial in launched.outcome.trials
    )
    assert here["stages"]["made"] == len(launched.outcome.made_keys)
    lacking = {"unsent": launched.unsent, "trouble": "", "refused": 0, "refusal": ""}
    assert here["tracking"] == lacking
    # Another machine knows the library only.
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "elsewhere"))
    there = json.loads(told("tiny", "--library", tiny["library"], "--json"))
    assert {**there, "age": 0} == {**here, "age": 0}
    assert "tiny-1: finished" in told("tiny-1", "--library", tiny["library"])


def test_a_status_is_neither_a_need_nor_a_leftover(library):
    library.write_references(RunReferences(RunRef("tiny-1", "tiny-1"), frozenset({"a" * 64})))
    library.write_status("tiny-1", "laptop", "{}")
    library.write_status("tiny-1", "head", "[]")
    library.write_status("tiny-12", "head", "1")
    assert library.all_references()["tiny-1"].keys == {"a" * 64}
    assert {name: sorted(some) for name, some in library.statuses().items()} == {
        "tiny-1": ["[]", "{}"],
        "tiny-12": ["1"],
    }
    collect = ["library", "collect", "--library", library.uri, "--older", "0", "--yes", "--json"]
    assert json.loads(CliRunner().invoke(app, collect).stdout)["files"] == []
    CliRunner().invoke(app, [*collect, "--forget", "tiny-1"])
    assert library.all_references() == {}
    assert set(library.statuses()) == {"tiny-12"}


def test_a_library_in_a_bucket_tells_it_too(bucket):
    library = Library(bucket)
    assert library.statuses() == {}
    library.write_status("tiny-1", "head", '{"state": "running"}')
    library.write_status("tiny-1", "head", '{"state": "finished"}')
    assert Library(bucket).statuses() == {"tiny-1": ['{"state": "finished"}']}


def test_nothing_of_a_killed_search_is_said_to_run(load, library, tmp_path, monkeypatch):
    """Its last sign of life tells of a stage and a trial that run; both ended with it."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    sent = {"unsent": 0, "refused": 0, "trouble": "", "refusal": ""}
    folder = RunFolder.new("tiny")
    bulletin_of = publisher.StatusPublisher(
        SearchStatus(load()), folder, library, lambda: sent, 0.0
    )
    needed = (
        RequiredStage("a" * 64, "teacher", ()),
        RequiredStage("b" * 64, "assistant", ("a" * 64,)),
    )
    bulletin_of(StageChanged("a" * 64, "teacher", "running", 3, 40))
    bulletin_of(TrialWaiting(1, needed))
    bulletin_of(TrialStarted(0, {}, {}, {}))
    written = {**bulletin_of._snapshot(), "name": "tiny-1", "at": time.time()}
    library.write_status("tiny-1", "laptop", json.dumps(written))
    alive = json.loads(told("tiny", "--library", library.uri, "--json"))
    assert (alive["stages"]["running"], len(alive["trials"]["running"])) == (1, 1)
    library.write_status("tiny-1", "laptop", json.dumps({**written, "at": time.time() - 3600}))
    dead = json.loads(told("tiny", "--library", library.uri, "--json"))
    assert dead["silent_for"] > 3000
    assert (dead["trials"]["running"], dead["trials"]["waiting"]) == ([], [])
    assert (dead["stages"]["open"], dead["stages"]["unborn"]) == ([], [])
    assert {dead["stages"][kind] for kind in ("running", "queued", "waiting")} == {0}
    assert "teacher" not in told("tiny", "--library", library.uri)


@pytest.mark.parametrize("state", ["interrupted", "failed", "finished"])
def test_nothing_runs_after_the_end(load, state):
    standing = SearchStatus(load())
    standing(StageChanged("a" * 64, "teacher", "running", 3, 40))
    standing(TrialWaiting(1, (RequiredStage("a" * 64, "teacher", ()),)))
    standing(TrialStarted(0, {}, {}, {}))
    standing(SearchEnded(state))
    found = standing.plain(10)
    assert (found["stages"]["open"], found["stages"]["unborn"]) == ([], [])
    assert (found["trials"]["running"], found["trials"]["waiting"]) == ([], [])


DRIVER = """
import sys
from stillhouse.search.monitoring import publisher
publisher.PUBLISH_INTERVAL = 0.2
sys.argv = ["stillhouse", "launch", "tiny.yaml", "--inline"]
from stillhouse.search.cli.app import main
main()
"""


@pytest.mark.slow
def test_a_killed_driver_is_not_said_to_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny["run"]["trials"] = 500
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.DEVNULL)
    try:
        _wait_for_a_trial(tmp_path)
        running = json.loads(told("tiny", "--json"))
        assert running["state"] == "running"
        assert running["driver"]["pid"] == driver.pid
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    time.sleep(publisher.MAX_MISSED_HEARTBEATS * 0.2 + 0.5)
    assert json.loads(told("tiny", "--json"))["silent_for"] > publisher.MAX_MISSED_HEARTBEATS * 0.2
    said = told("tiny")
    assert "tiny-1: no sign of life for" in said
    assert "go on with: stillhouse resume tiny-1" in said
    assert "running for" not in said


def _wait_for_a_trial(folder):
    start = time.monotonic()
    written = folder / "stillhouse-runs" / "tiny-1" / "status.json"
    while not (written.exists() and json.loads(written.read_text())["trials"]["ended"]):
        assert time.monotonic() - start < 240
        time.sleep(0.2)
