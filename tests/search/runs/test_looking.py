"""Whoever looks at a run changes nothing of its study, and whoever runs it runs it alone."""

import contextlib
import sqlite3
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from stillhouse.search.cli.app import app
from stillhouse.search.driver.launch import launch, resume
from stillhouse.search.experiment.experiment import to_yaml
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.results.run_folder import RunFolder, RunLocked
from stillhouse.search.tuning.study import Study
from stillhouse.search.tuning.study_reading import StudyReader
from stillhouse.spaces.config.problems import ConfigError

LOOKS = (
    ("best", "tiny"),
    ("best", "tiny", "--json"),
    ("report", "tiny"),
    ("status", "tiny"),
    ("status", "tiny", "--json"),
    ("export", "tiny", "--to", "safetensors"),
)
FIGURES = {"val_accuracy": 0.5}
NO_ANSWER = "http://127.0.0.1:9"


@pytest.fixture(params=["journal", "sqlite"])
def asked(request, load, tmp_path, monkeypatch):
    """An experiment whose study lies in the run's folder, or in a database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    place = {"study": f"sqlite:///{tmp_path}/studies.db"} if request.param == "sqlite" else {}
    changes = {"run.trials": 2, "run.repeats": {"top": 1, "seeds": 2}}
    return load(changes, tracking=NO_ANSWER, **place)


@pytest.fixture
def kept(tmp_path):
    """All that is kept of studies: the journal's bytes, the database's rows, names and links."""

    def found():
        runs = tmp_path / "runs"
        files = [*runs.rglob("study.*"), *runs.rglob("state.json"), *runs.rglob("experiment.yaml")]
        told = {str(file): file.read_bytes() for file in files}
        database = tmp_path / "studies.db"
        if database.exists():
            with contextlib.closing(sqlite3.connect(database)) as connection:
                told["rows"] = list(connection.iterdump())
            told["bytes"] = database.read_bytes()
        assert told
        return told

    return found


def look():
    """Every command that looks; some have nothing to show yet, and say so in a line."""
    for words in LOOKS:
        done = CliRunner().invoke(app, list(words))
        known = done.exception is None or isinstance(done.exception, ConfigError | SystemExit)
        assert known, (words, done.exception)
    with contextlib.suppress(ConfigError):
        from stillhouse.search.driver.reuse import repeat_winner

        repeat_winner("tiny", {}, 1, None)


def begun(asked):
    """A search that runs: one trial ended, one at work, one not yet laid out."""
    folder = RunFolder.new("tiny")
    folder.write_yaml("experiment.yaml", to_yaml(asked.plain()))
    study = Study(asked, folder.path)
    study.tell(study.ask().number, FIGURES)
    study.ask()
    return folder, study


def test_a_search_that_runs_hears_nothing_of_those_who_look(asked, kept):
    folder, study = begun(asked)
    asking = study._ask_optuna()
    before = kept()
    look()
    assert kept() == before
    reader = StudyReader(asked, folder.path)
    assert [trial.state for trial in reader.trials()] == ["finished", "running"]
    reader.close()
    assert study._make_proposal(asking).number == 2
    assert study.tell(1, FIGURES).state == "finished"
    assert [trial.state for trial in study.trials()] == ["finished", "finished", "running"]
    study.close()


def test_a_search_that_has_ended_stays_as_it_is(asked, kept):
    launched = launch(asked, inline=True)
    before = kept()
    look()
    assert kept() == before
    reader = StudyReader(asked, launched.folder.path)
    assert tuple(reader.trials()) == launched.outcome.trials
    assert reader.importances() == launched.outcome.importances
    reader.close()


def test_a_study_that_is_not_there_yet_is_not_made(asked, tmp_path):
    reader = StudyReader(asked, tmp_path / "runs" / "tiny-1")
    assert (reader.trials(), reader.importances()) == ([], {})
    reader.close()
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "studies.db").exists()


def test_a_database_refuses_who_only_looks(load, tmp_path, monkeypatch):
    monkeypatch.setattr("stillhouse.search.tuning.storage.RETRY_FOR_S", 0.1)
    asked = load(study=f"sqlite:///{tmp_path}/studies.db")
    Study(asked, tmp_path / "run").ask()
    reader = StudyReader(asked, tmp_path / "run")
    with pytest.raises(RuntimeError, match="readonly"):
        reader._study.enqueue_trial({})
    with pytest.raises(RuntimeError, match="readonly"):
        reader._storage.set_study_user_attr(1, "a", 1)


# One driver


DRIVER = """
import sys
from stillhouse.search.results.run_folder import RunFolder
with RunFolder.find("tiny").locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_driver_is_refused_in_a_line_and_changes_nothing(load, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("stillhouse.search.results.run_folder.LOCK_TIMEOUT_S", 0.1)
    folder, study = begun(load())
    before = {file: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunLocked) as refused:
            resume("tiny", inline=True, trials=3)
        assert str(refused.value).startswith("tiny-1: another process runs it; stop that one first")
        after = {file: file.read_bytes() for file in before}
        other.stdin.close()
    assert after == before
    with folder.locked(timeout=30):  # the lock went with its process
        pass
    study.close()


def test_a_report_beside_a_driver_leaves_the_outcome_to_it(load, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    folder, study = begun(load())
    (folder.path / "study.journal").unlink()  # nothing of it is in the library
    with folder.locked():
        done = CliRunner().invoke(app, ["report", "tiny"])
    assert done.exit_code == 0, done.output
    assert (folder.path / "report.html").exists()
    assert not (folder.path / "outcome.json").exists()
    assert load_experiment(folder.path / "experiment.yaml").name == "tiny"
    study.close()
