"""Whatever fails at the end of a search: its outcome is kept, its state is told, it can go on."""

import contextlib
import errno
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from stillhouse import SearchFailed
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.cli.app import app, main
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.driver import driver
from stillhouse.search.driver.driver import example_images
from stillhouse.search.driver.ending import StateFile, failure_reason, unwritable
from stillhouse.search.driver.launch import launch, resume
from stillhouse.search.experiment.checks.ending import untestable_reason
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.events import (
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialStarted,
)
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.problems import ConfigError, Problem
from tests.support.experiments import tiny_experiment

TINY = tiny_experiment(
    objective={"soft_targets": {}},
    validation=0.25,
    search={"student.training.lr": {"choice": [0.02, 0.1]}},
    run={"trials": 2, "sampler": "grid", "repeats": {"top": 1, "seeds": 1}, "baselines": False},
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """MLflow's database and the library of all these searches."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def tiny(store, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return {**TINY, "library": f"{store}/library", "tracking": f"sqlite:///{store}/mlflow.db"}


def state_of(folder):
    return folder.read_json("state.json")["state"]


def mlflow_run(store, folder):
    """The search's own run in MLflow."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    token = json.loads((folder.path / "tracking" / "search.json").read_text())["token"]
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            kind = run.data.tags.get("stillhouse.kind")
            if kind == "search" and token in json.dumps(run.data.tags):
                return run
    raise AssertionError("no such run")


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_what_fails_at_the_end_hides_neither_outcome_nor_state(tiny, store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(driver, "write_pages", raising(KeyError("val_agreement")))
        with pytest.raises(SearchFailed) as failed:
            launch(load_experiment(tiny), inline=True)
    launched = failed.value.result
    folder = launched.folder
    assert str(failed.value).startswith("tiny-1: drawing the report failed: KeyError: ")
    assert "\n" not in str(failed.value)
    assert (launched.state, launched.unsent) == ("failed", 0)
    assert folder.read_json("outcome.json")["repeats"]
    assert (folder.path / "best.yaml").exists()
    assert "KeyError: 'val_agreement'" in (folder.path / "error.txt").read_text()
    assert folder.read_json("state.json")["reason"] == launched.reason
    told = mlflow_run(store, folder)
    assert told.info.status == "FAILED"
    assert told.data.tags["stillhouse.winner"].startswith("trial ")
    said = CliRunner().invoke(app, ["status", "tiny"]).stdout
    assert "tiny-1: failed (drawing the report failed" in said
    assert resume("tiny", inline=True).state == "finished"
    assert state_of(folder) == "finished"
    assert mlflow_run(store, folder).info.status == "FINISHED"
    assert (folder.path / "report.html").exists()


def test_a_name_that_registers_nothing_leaves_the_model_and_the_winner(tiny, store):
    changes = {"run.register_as": "student", "run.trials": 1}
    experiment = load_experiment(tiny, changes)
    run = experiment.run.model_copy(update={"register_as": "team/student"})
    with pytest.raises(SearchFailed, match="registering the winner failed: run"):
        launch(replace(experiment, run=run), inline=True)
    folder = RunFolder.find("tiny")
    assert mlflow_run(store, folder).outputs.model_outputs
    assert not (folder.path / "error.txt").exists()


def test_no_trial_that_finishes_is_one_error_with_the_reasons(tiny, store):
    rates = {"student.training.lr": {"choice": [1e30, 2e30]}}
    with pytest.raises(SearchFailed) as failed:
        launch(load_experiment({**tiny, "search": rates}), inline=True)
    said = str(failed.value)
    assert said.startswith("tiny-1: no trial finished; 2 of 2 trials failed: Diverged: ")
    assert [trial.state for trial in failed.value.result.outcome.trials] == ["failed"] * 2
    assert state_of(RunFolder.find("tiny")) == "failed"
    assert mlflow_run(store, RunFolder.find("tiny")).info.status == "FAILED"
    again = CliRunner().invoke(app, ["resume", "tiny", "--inline", "--json"])
    assert again.exit_code == 1
    assert "error: tiny-1: no trial finished" in again.stderr
    assert json.loads(again.stdout)["state"] == "failed"


def test_ctrl_c_at_every_phase_leaves_a_run_that_goes_on(tiny, store, monkeypatch):
    """At the start, before and within a trial, while the best is settled, and at the end."""
    with monkeypatch.context() as patch:
        patch.setattr(driver, "Study", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt, match="go on with: stillhouse resume tiny-1"):
            launch(load_experiment(tiny), inline=True)
    folder = RunFolder.find("tiny")
    assert state_of(folder) == "interrupted"
    assert "see `stillhouse best tiny-1`" in str(
        CliRunner().invoke(app, ["status", "tiny"]).exception
    )

    def at(wanted):
        def stop(event):
            if wanted(event):
                raise KeyboardInterrupt

        return stop

    phases = [
        lambda event: isinstance(event, SearchStarted),
        lambda event: isinstance(event, TrialStarted),
        lambda event: isinstance(event, TrialEnded) and event.number == 1,
        lambda event: isinstance(event, StageChanged) and "seed 1" in event.label,
    ]
    for wanted in phases:
        launched = resume("tiny", inline=True, observers=[at(wanted)])
        assert launched.state == state_of(folder) == "interrupted"
        told = json.loads(CliRunner().invoke(app, ["status", "tiny", "--json"]).stdout)
        assert (told["state"], told["stages"]["open"]) == ("interrupted", [])
    with monkeypatch.context() as patch:
        patch.setattr(driver, "write_pages", raising(KeyboardInterrupt()))
        assert resume("tiny", inline=True).state == state_of(folder) == "interrupted"
    assert mlflow_run(store, folder).info.status == "KILLED"
    said = CliRunner().invoke(app, ["status", "tiny"]).stdout
    assert "go on with: stillhouse resume tiny-1" in said
    launched = resume("tiny", inline=True)
    assert launched.state == state_of(folder) == "finished"
    assert [trial.state for trial in launched.outcome.trials] == ["finished"] * 2
    assert mlflow_run(store, folder).info.status == "FINISHED"


def test_ctrl_c_while_mlflow_is_waited_for_ends_the_waiting_alone(tiny, monkeypatch):
    close = driver.Tracker.close
    monkeypatch.setattr(driver.Tracker, "close", raising(KeyboardInterrupt()))
    launched = launch(load_experiment(tiny, {"run.trials": 1}), inline=True)
    assert launched.state == state_of(launched.folder) == "finished"
    monkeypatch.setattr(driver.Tracker, "close", close)


@pytest.mark.parametrize(("validation", "images"), [(0.0, 4), (0.01, 2), (0.5, 4)])
def test_a_model_has_its_example_from_whatever_split_there_is(validation, images):
    data = {"source": "digits", "classes": [3], "validation": validation, "limit": 60}
    found = example_images(DataConfig.parse(data))
    assert found.shape == (images, 1, 8, 8)


def test_a_test_split_that_is_missing_or_hides_its_labels_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    rows = "".join(f"w{n % 7} {'good' if n % 2 else 'bad'},{n % 2}\n" for n in range(40))
    (tmp_path / "train.csv").write_text(f"text,label\n{rows}")
    source = {"text": {"length": 4, "test": None, "embedding": {"dimensions": 4}}}
    data = {"source": source, "root": str(tmp_path), "validation": 0.25}
    assert untestable_reason(DataConfig.parse(data)) == "text has no test split"
    assert untestable_reason(DataConfig.parse({"source": "digits", "limit": 60})) == ""
    (tmp_path / "test.csv").write_text("text,label\nw1 good,-1\n")
    hidden = DataConfig.parse({**data, "source": {"text": {**source["text"], "test": "test.csv"}}})
    with pytest.raises(ConfigError, match=r"test files .* have a label too many: .*'-1'"):
        untestable_reason(hidden)


# Places that fail


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own with little room."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root and the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_under_a_run_is_one_line_and_the_run_goes_on(tiny, small_disk, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(small_disk))

    def fill(event):
        filler = small_disk / "filler"
        if isinstance(event, TrialEnded):
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1000))

    elsewhere = {"study": f"sqlite:///{small_disk.parent}/study.db"}
    with pytest.raises(StorageUnavailable) as lost:
        launch(load_experiment({**tiny, **elsewhere}), inline=True, observers=[fill])
    said = str(lost.value)
    assert said.startswith(f"runs: {small_disk}")
    assert "No space left on device; make room there; then stillhouse resume tiny-1" in said
    folder = RunFolder.find("tiny")
    assert state_of(folder) == "failed"
    (small_disk / "filler").unlink()
    launched = resume("tiny", inline=True)
    assert launched.state == "finished"
    assert [trial.state for trial in launched.outcome.trials] == ["finished"] * 2


def test_runs_on_a_disk_that_takes_no_files_are_one_line(tiny, small_disk, monkeypatch, capsys):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(small_disk))
    RunFolder.new("tiny")
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True, capture_output=True)
    (tiny_file := small_disk.parent / "tiny.yaml").write_text(json.dumps(tiny))
    monkeypatch.setattr(sys, "argv", ["stillhouse", "launch", str(tiny_file), "--inline"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    told = f"error: {small_disk} cannot be written: Read-only file system; set STILLHOUSE_RUNS"
    assert error.startswith(told)
    assert "\n" not in error


def test_a_full_disk_is_known_in_whatever_says_it(tmp_path):
    """Ray and Tune pass on what a worker or a listener met as errors of their own."""
    folder = RunFolder(tmp_path)
    told = RuntimeError("a listener failed: OSError: [Errno 28] No space left on device")
    wrapped = RuntimeError("fit failed")
    wrapped.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded", f"{tmp_path}/tune/result.json")
    assert str(tmp_path) in str(unwritable(told, folder))
    assert f"{tmp_path}/tune/result.json cannot be written" in str(unwritable(wrapped, folder))
    closed = PermissionError(errno.EACCES, "Permission denied", f"{tmp_path}/state.json")
    assert "state.json cannot be written: Permission denied; make it" in str(
        unwritable(closed, folder)
    )
    # A data file that may not be read is another matter.
    other = PermissionError(errno.EACCES, "Permission denied", "/data/train.parquet")
    assert unwritable(other, folder) is None
    assert unwritable(RuntimeError("CUDA error"), folder) is None


def test_a_state_is_told_also_on_a_full_disk(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    state = StateFile(folder)
    state.write("running", "a reason that is longer than what follows")
    monkeypatch.setattr(RunFolder, "write", raising(OSError(28, "No space left on device")))
    state.write("failed")
    assert folder.read_json("state.json")["state"] == "failed"


def test_why_a_search_failed_is_one_line_without_secrets(tmp_path):
    folder, uri = RunFolder(tmp_path), "postgresql://me:hunter2@db/studies"
    told = failure_reason(RuntimeError(f"no answer from {uri}\nTraceback ..."), folder, uri)
    assert told.startswith("no answer from ")
    assert "hunter2" not in told
    assert "\n" not in told
    both = ConfigError([Problem("data", "is missing"), Problem("goal", "is missing")])
    assert failure_reason(both, folder) == "data: is missing; goal: is missing"
