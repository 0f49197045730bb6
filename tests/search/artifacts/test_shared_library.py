"""Runs of one name in one library: each keeps its artifacts, whatever its state."""

import datetime
import json
import multiprocessing
import os
import signal
import time

import pytest
import torch
from typer.testing import CliRunner

from stillhouse.search.artifacts.need import RunRef, RunReferences, find_run
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.app import app
from stillhouse.search.cluster.dashboard import ClusterDashboard
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.driver import garbage
from stillhouse.search.driver.launch import launch, resume
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring import publisher
from stillhouse.search.monitoring.events import (
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialStarted,
)
from stillhouse.search.monitoring.needs import NeededKeysRecorder
from stillhouse.search.monitoring.status import SearchStatus
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.problems import ConfigError

FAST = {"epochs": 1, "batch_size": 32, "lr": 0.05}


class Broken(Exception):
    """The error of a search."""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A search of three trials; its references are written at once, and no file is too young."""
    monkeypatch.setattr(publisher, "NEEDS_INTERVAL", 0.02)
    monkeypatch.setattr(garbage, "NEED_WRITE_GRACE", datetime.timedelta(0))
    return {
        "name": "fresh",
        "library": str(tmp_path / "library"),
        "tracking": f"sqlite:///{tmp_path}/mlflow.db",
        "data": {"source": "digits", "limit": 100},
        "stages": {
            "teacher": {"network": "cnn2", "objective": {"cross_entropy": {}}, "training": FAST},
            "student": {
                "network": {"cnn2": {"width": 0.25}},
                "teachers": ["teacher"],
                "objective": {"soft_targets": {}},
                "training": FAST,
            },
        },
        "search": {"student.training.lr": {"choice": [0.02, 0.1, 0.2]}},
        "goal": {"maximize": "student.val_accuracy"},
        "run": {"trials": 3, "sampler": "grid", "repeats": {"top": 0}, "baselines": False},
    }


def launched(told, folder, monkeypatch, *observers):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(folder))
    return launch(load_experiment(told), inline=True, observers=observers)


def called(*words):
    return CliRunner().invoke(app, list(words))


def collected(library, *words):
    """The keys that a collector deletes if no file is too young."""
    asked = ("library", "collect", "--library", library, "--older", "0", "--yes", "--json", *words)
    result = called(*asked)
    assert result.exit_code == 0, result.output
    return set(json.loads(result.stdout)["artifacts"])


def wait_for_note(library, keys):
    """Wait for references with all keys."""
    until = time.monotonic() + 60
    while True:
        for need in Library(library).all_references().values():
            if keys <= need.keys:
                return need
        assert time.monotonic() < until, "the search has not noted what it needs"
        time.sleep(0.02)


class Heard:
    """An observer that collects the keys of trials, and calls ``then`` when trial 1 starts."""

    def __init__(self, then):
        self.keys = set()
        self.then = then

    def __call__(self, event):
        if isinstance(event, TrialStarted):
            self.keys |= set(event.stage_keys.values())
            if event.number == 1:
                self.then(self.keys)


def test_two_runs_of_one_name_keep_their_own(small, tmp_path, monkeypatch):
    library = small["library"]
    anna = launched(small, tmp_path / "anna", monkeypatch)
    small["stages"]["teacher"]["training"] = {**FAST, "lr": 0.1}
    bert = launched(small, tmp_path / "bert", monkeypatch)
    assert anna.folder.name == bert.folder.name == "fresh-1"
    assert anna.folder.id != bert.folder.id
    hers, his = set(anna.outcome.records), set(bert.outcome.records)
    assert len(hers) == len(his) == 4
    assert not hers & his
    assert collected(library) == set()
    for words in (
        ("library", "collect", "--library", library, "--forget", "fresh-1", "--yes"),
        ("status", "fresh-1", "--library", library),
        ("status", "fresh", "--library", library),
    ):
        (problem,) = called(*words).exception.problems
        for run in (anna.folder, bert.folder):
            assert f"{run.id} ({run.path} on " in problem.message
    status = json.loads(called("status", anna.folder.id, "--library", library, "--json").stdout)
    assert (status["id"], status["name"]) == (anna.folder.id, "fresh-1")
    assert status["driver"]["folder"] == str(anna.folder.path)
    assert collected(library, "--forget", bert.folder.id) == his
    assert set(Library(library).keys()) == hers
    assert set(Library(library).statuses()) == {anna.folder.id}
    assert collected(library, "--forget", "fresh-1") == hers  # the only run of that name by now


def test_nothing_of_a_running_search_is_collected(small, tmp_path, monkeypatch):
    library, made = small["library"], []

    def collect(keys):
        wait_for_note(library, keys)
        made.extend(Library(library).keys())
        assert collected(library) == set()

    run = launched(small, tmp_path / "runs", monkeypatch, Heard(collect))
    assert len(made) == 2  # the teacher, and the student of trial 0
    assert run.outcome.made_keys == {
        k for k, r in run.outcome.records.items() if r.name == "teacher"
    }
    assert {trial.state for trial in run.outcome.trials} == {"finished"}


def test_a_search_that_failed_keeps_its_own(small, tmp_path, monkeypatch):
    def fail(_):
        raise Broken

    heard = Heard(fail)
    with pytest.raises(Broken):
        launched(small, tmp_path / "runs", monkeypatch, heard)
    assert collected(small["library"]) == set()
    assert len(list(Library(small["library"]).keys())) == 2
    (need,) = Library(small["library"]).all_references().values()
    assert need.keys >= heard.keys
    assert not need.is_finished


def test_a_killed_search_keeps_its_own_and_goes_on(small, tmp_path, monkeypatch):
    library = small["library"]

    def killed(keys):
        wait_for_note(library, keys)
        os.kill(os.getpid(), signal.SIGKILL)

    def search():
        launched(small, tmp_path / "runs", monkeypatch, Heard(killed))

    driver = multiprocessing.get_context("fork").Process(target=search)
    driver.start()
    driver.join(120)
    assert driver.exitcode == -signal.SIGKILL
    (before,) = Library(library).all_references().values()
    there = set(Library(library).keys())
    assert len(there) == 2
    assert collected(library) == set()
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    went_on = resume("fresh-1", inline=True)
    assert not went_on.outcome.made_keys & there
    (after,) = Library(library).all_references().values()
    assert after.run == before.run
    assert after.keys >= before.keys | set(went_on.outcome.records)
    assert after.is_finished


def test_a_run_of_an_earlier_version_finds_its_own_note(small, tmp_path, monkeypatch):
    """It has no id: its references are under its name."""
    first = launched(small, tmp_path / "runs", monkeypatch)
    library = Library(small["library"])
    library.forget_run(first.folder.id)
    (first.folder.path / "run.json").unlink()
    library.files.write("searches/fresh-1.json", json.dumps(["ab", "cd"]).encode())
    assert first.folder.id == "fresh-1"
    resume("fresh-1", inline=True)
    (need,) = library.all_references().values()
    assert need.run.id == "fresh-1"
    assert need.keys == {"ab", "cd"} | set(first.outcome.records)
    assert set(library.statuses()) == {"fresh-1"}


# The parts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    return RunFolder.new("fresh")


def test_every_run_has_an_id_of_its_own(folder):
    assert folder.id.startswith("fresh-1-")
    assert folder.id == RunFolder.find("fresh").id
    assert RunFolder.new("fresh").id.startswith("fresh-2-")
    for damaged in ("", "[]", '{"id": "../x"}', '{"id": 7}'):
        (folder.path / "run.json").write_text(damaged, encoding="utf-8")
        assert folder.id == "fresh-1"


def test_needs_are_gathered_from_events_and_never_lost(folder, disk, monkeypatch):
    needs = NeededKeysRecorder(folder, disk)
    needs.write()
    assert disk.references_of(folder.id).keys == set()
    needs(TrialStarted(0, {}, {"student": "a"}, {}))
    needs(StageChanged("b", "teacher", "queued"))
    assert disk.references_of(folder.id).keys == set()
    needs.write()
    assert disk.references_of(folder.id).keys == {"a", "b"}
    again = NeededKeysRecorder(folder, disk)  # a resume
    again(SearchStarted("fresh-1", {}, True))
    again.add_and_write(["c"])
    assert disk.references_of(folder.id).keys == {"a", "b", "c"}

    def full(*_):
        raise StorageUnavailable("library", "no room")

    again(StageChanged("d", "student", "running"))
    with monkeypatch.context() as without_room:
        without_room.setattr(Library, "write_references", full)
        with pytest.raises(StorageUnavailable):
            again.write()
    again(SearchEnded("finished"))
    again.write()
    assert disk.references_of(folder.id) == RunReferences(again._run, frozenset("abcd"), True)


def test_what_is_half_done_stays_as_long_as_its_search_may_go_on(disk):
    mine, other = "a" * 64, "b" * 64
    run = RunRef("fresh-1-0badcafe", "fresh-1")
    for name in (mine, f"{mine}-0123456789abcdef", other):
        disk.save_scratch(name, {"epoch": torch.tensor(1)})
    disk.write_references(RunReferences(run, frozenset({mine}), is_finished=False))
    collected(disk.uri)
    assert disk.load_scratch(mine) is not None
    assert disk.load_scratch(f"{mine}-0123456789abcdef") is not None
    assert disk.load_scratch(other) is None
    disk.write_references(RunReferences(run, frozenset({mine}), is_finished=True))
    collected(disk.uri)
    assert disk.load_scratch(mine) is None


def test_beside_a_running_search_what_is_young_is_left_alone(disk):
    """Its references may be a second old: a file is orphaned after a minute, or after the run."""
    told = {"state": "running", "at": time.time(), "every": 15.0}
    disk.save_scratch("c" * 64, {"epoch": torch.tensor(1)})
    disk.write_status("fresh-1-0badcafe", "laptop", json.dumps(told))
    collected(disk.uri)
    assert disk.load_scratch("c" * 64) is not None
    disk.write_status("fresh-1-0badcafe", "laptop", json.dumps({**told, "at": time.time() - 60}))
    collected(disk.uri)
    assert disk.load_scratch("c" * 64) is None


def test_a_run_of_an_earlier_version_can_be_named_beside_one_of_the_same_name():
    old, new = (
        RunRef("fresh-1", "fresh-1"),
        RunRef("fresh-1-0badcafe", "fresh-1", "laptop", "/runs"),
    )
    with pytest.raises(ConfigError, match=r"fresh-1-0badcafe \(/runs on laptop\), fresh-1\.json$"):
        find_run("fresh-1", [old, new], "--forget")
    assert find_run("fresh-1.json", [old, new], "--forget") == old
    assert find_run("fresh-1-0badcafe", [old, new], "--forget") == new
    assert find_run("fresh-1", [old], "--forget") == old
    with pytest.raises(ConfigError, match="did you mean 'fresh-1'"):
        find_run("frehs-1", [old], "--forget")


def test_a_damaged_status_is_one_line(disk):
    disk.write_status("fresh-1-0badcafe", "laptop", '{"name": "fre')
    for asked in ("fresh", "fresh-1", "fresh-1-0badcafe"):
        (problem,) = called("status", asked, "--library", disk.uri).exception.problems
        assert problem.message.startswith("the status of fresh-1-0badcafe is damaged; ")


# A cluster that two people share


def test_a_cluster_tells_runs_of_one_name_apart(monkeypatch):
    """Their drivers write to the same folder of the dashboard."""

    def told(name, folder):
        driver = {"host": "head", "folder": folder}
        return json.dumps({"name": name, "at": 1.0, "driver": driver})

    files = {
        "stillhouse-fresh-1-0badcafe.json": told("fresh-1", "/anna/fresh-1"),
        "stillhouse-fresh-1-12345678.json": told("fresh-1", "/bert/fresh-1"),
        "stillhouse-fresh-2-0badcafe.json": told("fresh-2", "/anna/fresh-2"),
        "stillhouse-old-1.json": told("old-1", "/anna/old-1"),  # by an earlier version
    }
    cluster = ClusterDashboard.__new__(ClusterDashboard)
    cluster.url = "http://head:8265"
    monkeypatch.setattr(cluster, "_alive_node_ids", lambda: ["node"])

    def get(what, **asked):
        listed = {"data": {"result": {"others": list(files)}}}
        return files[asked["filename"]] if what == "logs/file" else json.dumps(listed)

    monkeypatch.setattr(cluster, "_get", get)
    assert cluster.status("fresh")["driver"]["folder"] == "/anna/fresh-2"
    assert cluster.status("old")["driver"]["folder"] == "/anna/old-1"
    assert cluster.status("fresh-1-12345678")["driver"]["folder"] == "/bert/fresh-1"
    with pytest.raises(ConfigError, match=r"2 runs are called fresh-1; .*fresh-1-0badcafe \(/anna"):
        cluster.status("fresh-1")
    with pytest.raises(ConfigError, match="unknown run"):
        cluster.status("fresh-3")


def test_a_driver_writes_under_its_id_where_the_dashboard_looks(folder, load, disk, tmp_path):
    class Watched:
        def node_usage(self):
            return []

        def dashboard_folder(self):
            return tmp_path

    told = publisher.StatusPublisher(SearchStatus(load()), folder, disk, dict)
    told(SearchStarted(folder.name, {}, False))
    with told.monitor(Watched()):
        told(StageChanged("a" * 64, "teacher", "queued"))
    told(SearchEnded("finished"))
    told.close()
    assert (tmp_path / f"stillhouse-{folder.id}.json").exists()
    assert disk.references_of(folder.id).keys == {"a" * 64}
    assert disk.references_of(folder.id).is_finished
