"""Files of a run that a loss of power or a full disk has torn: rebuilt, or named in one line."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillhouse.search.cli.app import app
from stillhouse.search.core import durable
from stillhouse.search.core.durable import write_atomically
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.driver.launch import launch, resume
from stillhouse.search.driver.reuse import repeat_winner
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.yaml_source import read_document, with_end_mark, without_end_mark
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.result import read_outcome, split_repeats
from stillhouse.search.tuning.study import Study
from stillhouse.search.tuning.study_reading import StudyReader
from stillhouse.spaces.config.problems import ConfigError
from tests.support.experiments import tiny_experiment

NO_ANSWER = "http://127.0.0.1:9"
REBUILT = ("best.yaml", "outcome.json", "state.json")
TRACKING = ("operations.jsonl", "runs.jsonl", "search.json", "sent.json")
TINY = tiny_experiment(
    search={"student.training.lr": "declared"},
    run={"trials": 3, "repeats": {"top": 1, "seeds": 2}, "sampler": "random"},
)
CUTS = {"nothing": 0, "one byte": 1, "half": None, "all but one": -1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a search that ended, of which MLflow has got nothing yet."""
    folder = tmp_path_factory.mktemp("torn")
    told = {**TINY, "library": str(folder / "library"), "tracking": NO_ANSWER}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLHOUSE_RUNS", str(folder / "runs"))
        patch.chdir(folder)
        launched = launch(load_experiment(told), inline=True)
    assert launched.state == "finished"
    assert launched.unsent
    (launched.folder.path / "tracking" / "sent.json").write_text('{"bytes": 0}')
    (launched.folder.path / "tracking" / "runs.jsonl").write_text(
        '\n{"run": "search", "id": null, "place": "0"}\n'
    )
    return launched


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of it, for one test."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.folder.path, tmp_path / "runs" / "tiny-1")
    return RunFolder(tmp_path / "runs" / "tiny-1")


def tear(path: Path, cut: int | None) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if cut is None else cut])


def tear_last_line(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: -len(data.splitlines(keepends=True)[-1]) // 2])


def call(*words):
    """What a command prints; a user's mistake is a line, and nothing else may be raised."""
    done = CliRunner().invoke(app, list(words))
    refused = isinstance(done.exception, ConfigError | StorageUnavailable)
    assert done.exception is None or refused or isinstance(done.exception, SystemExit), (
        words,
        done.exc_info,
    )
    if refused:
        assert len(str(done.exception).splitlines()) == 1
    return str(done.exception) if refused else done.stdout


def settled(outcome):
    return [(r.role, r.seeds, [record.key for record in r.records]) for r in outcome.seed_runs]


# All at once


@pytest.mark.parametrize("cut", [0, None], ids=["nothing", "half"])
def test_what_follows_from_study_and_library_is_rebuilt(folder, finished, cut, caplog):
    for name in (*REBUILT, "status.json", "trials.csv", "report.html", "size.svg", "size.png"):
        tear(folder.path / name, cut)
    for name in TRACKING:
        tear(folder.path / "tracking" / name, cut)
    tear_last_line(folder.path / "study.journal")
    before = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}

    # The torn line told how the last trial ended; all others are as they were.
    known = finished.outcome.trials
    outcome = read_outcome(folder)
    assert outcome.trials[:2] == known[:2]
    assert outcome.trials[2].state == "running"
    told = json.loads(call("best", "tiny", "--json"))
    assert told["best"]["name"] == "tiny-best"
    assert "is damaged" in call("status", "tiny")
    assert repeat_winner("tiny", {}, 1, None).name == "tiny-best-again"
    assert {file: file.read_bytes() for file in before} == before
    assert "outcome.json is damaged" in caplog.text

    # Who goes on writes everything anew.
    assert resume("tiny", inline=True).state == "finished"
    outcome = read_outcome(folder)
    assert [t.state for t in outcome.trials] == ["finished"] * 3
    assert [t.stage_keys for t in outcome.trials] == [t.stage_keys for t in known]
    assert settled(outcome) == settled(finished.outcome)
    assert json.loads((folder.path / "state.json").read_text())["state"] == "finished"
    assert "tiny-1: finished" in call("status", "tiny")
    best = load_experiment(folder.path / "best.yaml")
    assert best.stages == load_experiment(finished.folder.path / "best.yaml").stages
    assert read_document(folder.path / "best.yaml").text.startswith("# The best of 3 trials")
    for name in ("trials.csv", "report.html", "size.svg", "size.png"):
        assert (folder.path / name).stat().st_size > 1000 or name == "trials.csv"


def test_an_outcome_is_rebuilt_as_it_was(folder, finished):
    whole = read_outcome(folder)
    assert settled(whole) == settled(finished.outcome)
    assert len(whole.seed_runs) > 1  # the baselines as well
    tear(folder.path / "outcome.json", None)
    rebuilt = read_outcome(folder)
    assert rebuilt.seed_runs == whole.seed_runs
    assert rebuilt.importances == whole.importances
    assert rebuilt.records == whole.records
    assert rebuilt.seconds == whole.seconds
    assert (rebuilt.made_keys, rebuilt.reused_keys) == (frozenset(), frozenset())


def test_how_long_a_search_has_run_is_known_from_three_files(folder):
    whole = folder.seconds_so_far()
    tear(folder.path / "state.json", None)
    assert 0.5 * whole < folder.seconds_so_far() <= whole + 10
    tear(folder.path / "status.json", None)
    assert 0 < folder.seconds_so_far() <= whole
    tear(folder.path / "outcome.json", None)
    assert folder.seconds_so_far() == 0.0


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_torn_experiment_is_named_and_never_taken_for_another(folder, cut):
    tear(folder.path / "experiment.yaml", cut)
    for words in (("best", "tiny"), ("report", "tiny"), ("resume", "tiny", "--inline")):
        if cut == -1 and words[0] == "resume":
            continue  # the end of the last line is all that it lacks
        said = call(*words)
        assert cut == -1 or str(folder.path / "experiment.yaml") in said
    whole = (folder.path / "experiment.yaml").read_bytes()
    for end in range(2, len(whole), 97):
        (folder.path / "experiment.yaml").write_bytes(whole[:-end])
        with pytest.raises(ConfigError):
            load_experiment(folder.path / "experiment.yaml")


def test_a_journal_that_has_lost_all_trials_is_one_line(folder):
    journal = folder.path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0])
    with pytest.raises(ConfigError, match="has no trials of this run any more"):
        read_outcome(folder)


def test_repetitions_of_a_trial_that_the_journal_lost_are_left_out(folder, finished):
    written = folder.read_json("outcome.json")
    (role,) = {r.role for r in finished.outcome.seed_runs if r.is_trial}
    records, trials = finished.outcome.records, finished.outcome.trials
    kept = [trial for trial in trials if f"trial {trial.number}" != role]
    assert [r.role for r in split_repeats(written, records, trials)[0] if r.is_trial] == [role]
    whole, lacking = split_repeats(written, records, kept)
    assert not [r for r in whole if r.is_trial]
    assert not lacking


def test_a_new_outcome_never_stands_beside_an_old_best(folder, finished, monkeypatch):
    """Power is lost after each write in turn: the best is that of the outcome, old or new."""
    from stillhouse.search.runs import results

    experiment = load_experiment(folder.path / "experiment.yaml")
    old = read_outcome(folder)
    (won,) = [r for r in old.seed_runs if r.is_trial]
    other = next(t for t in old.trials if f"trial {t.number}" != won.role)
    role = f"trial {other.number}"
    new = replace(old, seed_runs=(replace(won, role=role),))
    writes = []

    def cut_after(count):
        def moved(aside, path):
            writes.append(path.name)
            if len(writes) > count:
                raise KeyboardInterrupt
            return move(aside, path)

        return moved

    move = durable.replace_atomically
    for count in range(3):
        shutil.copytree(finished.folder.path, folder.path, dirs_exist_ok=True)
        writes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(durable, "replace_atomically", cut_after(count))
            if count < 2:
                with pytest.raises(KeyboardInterrupt):
                    results.write_outcome_data(experiment, new, folder)
            else:
                results.write_outcome_data(experiment, new, folder)
        told = json.loads(call("best", "tiny", "--json"))
        (repeated,) = [r for r in told["repeats"] if r["role"].startswith("trial ")]
        shown = call("best", "tiny")
        assert f"({repeated['role']})" in shown.partition("# The best of")[2].partition("\n")[0]
        assert repeated["role"] == (role if count else won.role)


# In a database


def test_a_torn_name_is_found_in_the_database(load, tmp_path, caplog):
    database = f"sqlite:///{tmp_path}/studies.db"
    first = Study(load(study=database), tmp_path / "tiny-1")
    first.tell(first.ask().number, {"val_accuracy": 0.5})
    other = Study(load(study=database), tmp_path / "tiny-12")  # no run of that name
    file = tmp_path / "tiny-1" / "study.json"
    tear(file, None)
    reader = StudyReader(load(study=database), tmp_path / "tiny-1")
    assert [trial.state for trial in reader.trials()] == ["finished"]
    assert "study.json is damaged: tiny-1 is the only study" in caplog.text
    reader.close()
    study = Study(load(study=database), tmp_path / "tiny-1")
    assert study.ask().number == 1
    assert json.loads(file.read_text()) == {"name": "tiny-1"}

    Study(load(study=database), tmp_path / "elsewhere" / "tiny-1").close()
    tear(file, 0)
    with pytest.raises(ConfigError) as refused:
        StudyReader(load(study=database), tmp_path / "tiny-1")
    assert f"{file}: is damaged, and tiny-1 or tiny-1-" in str(refused.value)
    assert 'write {"name": "THE STUDY\'S NAME"} into it' in str(refused.value)
    for open_one in (first, other, study):
        open_one.close()


# Writing


def test_a_file_is_old_or_new_whatever_fails(tmp_path, monkeypatch):
    file = write_atomically(tmp_path / "state.json", "old")
    steps = []

    def failing(handle):
        steps.append(handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_data_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """Else a loss of power leaves an empty file under the right name."""
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda h: order.append(os.readlink(f"/proc/self/fd/{h}")) or fsync(h)
    )
    monkeypatch.setattr(Path, "replace", lambda a, b: order.append("replace") or replace(a, b))
    write_atomically(tmp_path / "state.json", "new")
    aside, renamed, names = order
    assert Path(aside).name.startswith(".state.json.")
    assert (renamed, names) == ("replace", str(tmp_path))


def test_an_end_that_is_missing_is_told_by_its_mark():
    text = "name: a\ndata: {source: digits}\n"
    assert without_end_mark(with_end_mark(text)) == text
    assert without_end_mark(text) == text
    assert with_end_mark(text).endswith("\n...\n")


# One by one


FILES = (
    *("best.yaml", "outcome.json", "state.json", "status.json", "study.journal"),
    *("experiment.yaml", "trials.csv", "report.html", "size.svg", "size.png"),
    *(f"tracking/{name}" for name in TRACKING),
)


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("name", FILES)
def test_each_file_cut_anywhere_is_no_traceback(folder, name, cut):
    tear(folder.path / name, cut)
    for words in (("best", "tiny"), ("status", "tiny"), ("report", "tiny")):
        call(*words)
    whole = name != "experiment.yaml" or cut == -1
    said = call("resume", "tiny", "--inline", "--json")
    if whole:
        assert json.loads(said)["state"] == "finished"
        assert [t.state for t in read_outcome(folder).trials] == ["finished"] * 3
        assert json.loads(call("status", "tiny", "--json"))["state"] == "finished"
        assert json.loads(call("best", "tiny", "--json"))["best"]["name"] == "tiny-best"
