"""Study and MLflow on a real PostgreSQL, which is restarted, away, and does not let us in."""

import json
import threading
import time

import optuna
import pytest
from mlflow import MlflowClient

from stillhouse import launch, resume
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.events import TrialEnded, TrialStarted
from stillhouse.search.monitoring.mlflow import check_reachable, send_pending
from stillhouse.search.monitoring.mlflow import tracker as tracker_module
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.result import read_outcome
from stillhouse.search.runs.results import write_outcome
from stillhouse.search.tuning.storage import RetryingStorage, check_study_database
from stillhouse.search.tuning.study import Study
from stillhouse.search.tuning.study_reading import StudyReader
from stillhouse.spaces.config.problems import ConfigError

pytestmark = pytest.mark.slow
AWAY = "does PostgreSQL run there, and does it listen on that address?"
FIGURES = {"val_accuracy": 0.5, "val_nll": 1.0, "epoch": 2.0}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Where the test's runs are kept, and its working folder."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracker_module, "_MAX_PAUSE", 0.5)
    return tmp_path / "runs"


def proposals(study, count):
    """Asked and told one by one, so that the sampler learns."""
    asked = []
    for number in range(count):
        proposal = study.ask()
        asked.append(dict(proposal.values))
        study.tell(proposal.number, {**FIGURES, "val_accuracy": number / count})
    return asked


def test_the_sampler_proposes_what_it_proposes_from_a_journal(load, postgres, tmp_path):
    changes = {"run.sampler": "tpe", "run.trials": 12}
    in_folder = Study(load(changes), tmp_path / "journal")
    in_database = Study(load(changes, study=postgres.database()), tmp_path / "tiny-1")
    assert proposals(in_database, 12) == proposals(in_folder, 12)
    assert in_database.trials() == in_folder.trials()
    in_database.close()


def test_runs_of_one_name_in_one_database_do_not_merge(load, postgres, tmp_path):
    database = postgres.database()
    one, two = tmp_path / "here" / "tiny-1", tmp_path / "there" / "tiny-1"
    first, second = (Study(load(study=database), folder) for folder in (one, two))
    assert [first.ask().number, first.ask().number, second.ask().number] == [0, 1, 0]
    names = [json.loads((folder / "study.json").read_text())["name"] for folder in (one, two)]
    assert names[0] == "tiny-1"
    assert names[1].startswith("tiny-1-")
    storage = RetryingStorage(database)
    assert sorted(optuna.get_all_study_names(storage)) == sorted(names)
    again = Study(load(study=database), one)
    assert again.ask().number == 0  # what was interrupted is taken up
    assert [trial.number for trial in again.trials()] == [0, 1]
    for study in (first, second, again):
        study.close()
    storage.engine.dispose()


def test_who_only_looks_writes_nothing(load, postgres, tmp_path, monkeypatch):
    monkeypatch.setattr("stillhouse.search.tuning.storage.RETRY_FOR_S", 0.1)
    database = postgres.database()
    asked = load(study=database)

    def tables():
        """Of each table its rows."""
        with postgres.connect(database.rpartition("/")[2]) as connection:
            names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            found = [name for (name,) in connection.execute(names).fetchall()]
            return {t: connection.execute(f"SELECT * FROM {t}").fetchall() for t in found}

    reader = StudyReader(asked, tmp_path / "tiny-1")
    assert reader.trials() == []
    reader.close()
    assert tables() == {}  # not even Optuna's tables
    study = Study(asked, tmp_path / "tiny-1")
    study.tell(study.ask().number, FIGURES)
    study.ask()
    asking = study._ask_optuna()
    before = tables()
    reader = StudyReader(asked, tmp_path / "tiny-1")
    assert reader.trials() == study.trials()
    assert reader.importances() == {}
    with pytest.raises(optuna.exceptions.StorageInternalError) as refused:
        reader._study.enqueue_trial({})
    assert "read-only transaction" in str(refused.value.__cause__)
    reader.close()
    assert tables() == before
    assert study._make_proposal(asking).number == 2
    study.close()


def test_a_restart_between_any_two_operations_loses_nothing(load, postgres, tmp_path, caplog):
    study = Study(load(study=postgres.database()), tmp_path / "tiny-1")
    restart = threading.Thread(target=lambda: [postgres.restart(1.0) for _ in range(2)])
    told = []
    restart.start()
    while restart.is_alive() or len(told) < 6:
        number = study.ask().number
        study.tell(number, {**FIGURES, "val_accuracy": number / 1000})
        told.append(number)
    restart.join()
    values = {trial.number: trial.figures["val_accuracy"] for trial in study.trials()}
    assert values == {number: number / 1000 for number in told}
    assert {trial.state for trial in study.trials()} == {"finished"}
    assert "the study has to wait" in caplog.text
    study.close()


def test_one_that_stays_away_is_lost_in_one_line(load, postgres, tmp_path, monkeypatch):
    monkeypatch.setattr("stillhouse.search.tuning.storage.RETRY_FOR_S", 2.0)
    database = postgres.database()
    study = Study(load(study=database), tmp_path / "tiny-1")
    number = study.ask().number
    postgres.stop()
    try:
        started = time.monotonic()
        with pytest.raises(StorageUnavailable) as caught:
            study.tell(number, FIGURES)
        assert time.monotonic() - started < 20
        said = str(caught.value)
        assert "\n" not in said
        assert said.startswith("study: postgresql+psycopg://127.0.0.1:")
        assert said.endswith(
            "for 2 s; does PostgreSQL run there, and does it listen on that address?"
        )
        study.close()
        with pytest.raises(ConfigError, match=r"^study: .* does PostgreSQL run there"):
            Study(load(study=database), tmp_path / "tiny-1")
    finally:
        postgres.start()
    again = Study(load(study=database), tmp_path / "tiny-1")
    assert again.ask().number == number
    again.tell(number, FIGURES)
    again.close()


def test_what_was_written_before_the_answer_got_lost_is_no_error(load, postgres, tmp_path):
    """The commit arrived, its answer did not: the same is asked once more."""
    study = Study(load(study=postgres.database()), tmp_path / "tiny-1")
    trial = study.ask()
    (frozen,) = study._study.get_trials(deepcopy=False)
    state = optuna.trial.TrialState.COMPLETE
    for _ in range(2):
        assert study._storage.set_trial_state_values(frozen._trial_id, state, [0.5])
    failed = optuna.trial.TrialState.FAIL
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study._storage.set_trial_state_values(frozen._trial_id, failed)
    assert trial.number == 0
    study.close()


# Whole searches


def learned(launched):
    """Every trial's figures, without those of a clock."""
    clocks = ("seconds", "images_per_second")
    return [
        {name: value for name, value in trial.figures.items() if name not in clocks}
        for trial in launched.outcome.trials
    ]


def check_mlflow(uri, launched):
    """Each trial once, with its state and its last accuracy."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    found = client.search_runs([experiment], "tags.`stillhouse.kind` = 'trial'")
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found) == len(launched.outcome.trials)
    for trial in launched.outcome.trials:
        run = named[f"trial {trial.number}"]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["val_accuracy"] == trial.figures["val_accuracy"]
        curve = client.get_metric_history(run.info.run_id, "val_accuracy")
        # A trial that is taken up says again how it ended.
        assert {point.step for point in curve} == {1, 2}
        assert len({(point.step, point.value) for point in curve}) == 2


def test_both_restarted_in_the_middle_of_a_search(load, postgres, runs):
    changes = {"run.trials": 4}
    plain = launch(load(changes, tracking=f"sqlite:///{runs}.db"), inline=True)
    study, tracking = postgres.database(), postgres.database()
    experiment = load(changes, study=study, tracking=tracking, library=f"{runs}-other")

    def restart(event):
        match event:
            case TrialStarted(1):
                postgres.restart(3.0)
            case TrialEnded(2):
                threading.Thread(target=postgres.restart, args=(3.0,)).start()

    launched = launch(experiment, inline=True, observers=[restart])
    assert launched.state == "finished"
    assert launched.unsent == 0
    assert [t.values for t in launched.outcome.trials] == [t.values for t in plain.outcome.trials]
    assert learned(launched) == learned(plain)
    check_mlflow(tracking, launched)

    name = launched.folder.name
    assert not (launched.folder.path / "study.journal").exists()
    assert read_outcome(RunFolder.find(name)).trials == launched.outcome.trials
    extended = resume(name, inline=True, trials=2)
    assert [trial.number for trial in extended.outcome.trials] == list(range(6))
    assert extended.outcome.trials[:4] == launched.outcome.trials
    check_mlflow(tracking, extended)
    kept = load_experiment(extended.folder.path / "experiment.yaml")
    assert kept.study == study
    files = write_outcome(kept, read_outcome(extended.folder), extended.folder)
    assert extended.folder.path / "report.html" in files


def test_away_in_a_search_and_taken_up_by_a_resume(load, postgres, runs, monkeypatch):
    monkeypatch.setattr("stillhouse.search.tuning.storage.RETRY_FOR_S", 2.0)
    experiment = load({"run.trials": 4}, study=postgres.database(), tracking=f"sqlite:///{runs}.db")

    def stop(event):
        if isinstance(event, TrialStarted) and event.number == 2:
            postgres.stop()

    try:
        with pytest.raises(StorageUnavailable, match=r"; then stillhouse resume tiny-1$"):
            launch(experiment, inline=True, observers=[stop])
        folder = RunFolder.find("tiny-1")
        assert folder.read_json("state.json")["state"] == "failed"
        with pytest.raises(ConfigError, match=r"^study: .* cannot be used"):
            resume("tiny-1", inline=True)
    finally:
        postgres.start()
    launched = resume("tiny-1", inline=True)
    assert [(t.number, t.state) for t in launched.outcome.trials] == [
        (number, "finished") for number in range(4)
    ]
    check_mlflow(f"sqlite:///{runs}.db", launched)


@pytest.mark.usefixtures("runs")
def test_mlflow_away_for_the_whole_search(load, postgres):
    """Its database is: the spool keeps everything, and sends it when it is asked to."""
    tracking = postgres.database()
    postgres.stop()
    try:
        launched = launch(load({"run.trials": 2}, tracking=tracking), inline=True)
        assert launched.state == "finished"
        assert launched.unsent > 20
        assert send_pending(launched.folder.path) == launched.unsent
    finally:
        postgres.start()
    assert send_pending(launched.folder.path) == 0
    check_mlflow(tracking, launched)


# What is said before anything is begun


def told(call):
    with pytest.raises(ConfigError) as caught:
        call()
    (problem,) = caught.value.problems
    assert "\n" not in str(problem)
    return str(problem)


@pytest.mark.parametrize("field", ["study", "tracking"])
def test_a_wrong_password_a_wrong_port_and_no_database(postgres, runs, monkeypatch, field):
    ask = {"study": check_study_database, "tracking": check_reachable}[field]
    good = postgres.database()
    ask(good)
    other = postgres.database()  # MLflow's connections to the first may be there still
    monkeypatch.setenv("PGPASSWORD", "wrong-one")
    said = told(lambda: ask(other))
    assert said.startswith(f"{field}: postgresql+psycopg://127.0.0.1:{postgres.port}/db_")
    assert said.endswith("set PGPASSWORD, or add a line to ~/.pgpass")
    if field == "study":
        said = told(lambda: ask(good.replace(str(postgres.port), "9")))
        assert said.endswith(AWAY)
        assert not runs.exists()
