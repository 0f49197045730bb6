"""What is left of a run whose library is elsewhere, away, or lacks some of its artifacts."""

import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stillhouse.methods.core.objective.objective import parse_term
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.app import app
from stillhouse.search.driver.launch import launch
from stillhouse.search.experiment.former_presets import REMOVED_PRESETS
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.setting_paths import set_value
from stillhouse.search.experiment.yaml_source import read_document
from stillhouse.search.monitoring.publisher import STATUS_FILE
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.best_files import best_file_name
from stillhouse.search.runs.kept import load_run
from stillhouse.search.runs.result import read_run
from stillhouse.search.runs.results import write_outcome_data
from stillhouse.spaces.config.problems import ConfigError
from tests.support.experiments import tiny_experiment

TINY = tiny_experiment(
    objective={"soft_targets": {}},
    validation=0.25,
    search={"student.training.lr": {"choice": [0.02, 0.1]}},
    run={"trials": 2, "sampler": "grid", "repeats": {"top": 2, "seeds": 1}, "baselines": False},
)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A run that was launched in one folder, with relative places; and its folder."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("STILLHOUSE_RUNS", str(folder / "runs"))
        return launch(load_experiment("tiny.yaml"), inline=True)


@pytest.fixture
def run(launched, tmp_path, monkeypatch):
    """Its folder, seen from another working folder, and put back as it was afterwards."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(launched.folder.path.parent))
    monkeypatch.chdir(tmp_path)
    library = launched.folder.path.parents[1] / "stillhouse-library"
    kept = tmp_path / "kept"
    for place in (launched.folder.path, library):
        shutil.copytree(place, kept / place.name)
    yield launched.folder
    for place in (launched.folder.path, library):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept / place.name, place)


def call(*words):
    return CliRunner().invoke(app, list(words))


def library_of(run):
    return Library(yaml.safe_load((run.path / "experiment.yaml").read_text())["library"])


def test_a_run_means_the_same_from_another_folder(run, launched, tmp_path):
    before = run.read_json("outcome.json")
    said = call("best", "tiny")
    assert said.exit_code == 0, said.output
    assert "best student (trial" in said.stdout
    assert call("report", "tiny").exit_code == 0
    assert run.read_json("outcome.json")["repeats"] == before["repeats"]
    told = json.loads(call("resume", "tiny", "--inline", "--json").stdout)
    assert told["made"] == []
    assert launched.tracking.startswith(f"sqlite:///{run.path.parents[1]}")
    assert set(os.listdir(tmp_path)) == {"kept"}


@pytest.fixture(params=["gone", "empty"])
def unmounted(run, request):
    library = run.path.parents[1] / "stillhouse-library"
    shutil.rmtree(library)
    if request.param == "empty":
        library.mkdir()
    yield run
    there = library.exists() and list(library.iterdir())
    assert not there, "looking has made something"


def files_of(run):
    """Content by name."""
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


COMMANDS = [
    ("best", "tiny"),
    ("report", "tiny"),
    ("export", "tiny", "--to", "pt2"),
    ("resume", "tiny", "--inline"),
    ("extend", "tiny", "--trials", "1", "--inline"),
    ("reuse", "tiny", "--inline"),
    ("reuse", "tiny", "--trials", "4", "--inline"),
]


def test_a_library_that_is_away_is_one_line_and_nothing_is_made_or_changed(unmounted):
    before = files_of(unmounted)
    for words in COMMANDS:
        said = call(*words)
        assert isinstance(said.exception, ConfigError), (words, said.output)
        assert "stillhouse-library has none of its artifacts; mount it" in str(said.exception)
        assert "\n" not in str(said.exception)
    assert files_of(unmounted) == before


def test_a_folder_of_other_files_is_no_library_of_a_run(run):
    place = Path(load_run(run).library)
    shutil.rmtree(place)
    place.mkdir()
    (place / "readme.txt").write_text("another disk")
    said = call("resume", "tiny", "--inline")
    assert "stillhouse-library has none of its artifacts; mount it" in str(said.exception)
    assert [path.name for path in place.iterdir()] == ["readme.txt"]


def test_a_library_that_forgot_a_run_has_none_of_its_artifacts(run):
    uri = library_of(run).uri
    library_of(run).write_marker("artifacts/of-others")
    words = ["--library", uri, "--older", "0", "--forget", "tiny-1", "--yes"]
    assert call("library", "collect", *words).exit_code == 0
    before = run.read_json("outcome.json")
    for words in COMMANDS[:3]:
        assert "has none of its artifacts" in str(call(*words).exception), words
    assert run.read_json("outcome.json") == before


def header(run):
    """The first line that `best.yaml` says of the best configuration."""
    return read_document(run.path / "best.yaml").text.splitlines()[0]


def winning(run):
    """The key of the winner, and of the other repeated configuration."""
    role = json.loads(call("best", "tiny", "--json").stdout)["repeats"]
    best = header(run)
    first, second = sorted(role, key=lambda r: f"({r['role']})" not in best)
    return first["keys"][0], second["keys"][0]


@pytest.mark.parametrize("harm", ["removed", "damaged"])
def test_a_report_keeps_what_it_cannot_find(run, harm):
    best, _ = winning(run)
    before, text = run.read_json("outcome.json"), (run.path / "best.yaml").read_text()
    if harm == "removed":
        library_of(run).remove_artifact(best)
    else:
        for record in (run.path.parents[1] / "stillhouse-library").rglob(f"{best}/record.json"):
            record.write_text("{")
    said = call("report", "tiny")
    assert said.exit_code == 0, said.output
    assert "has no longer all records of trial" in said.stdout
    after = run.read_json("outcome.json")
    assert after["repeats"] == before["repeats"]
    assert set(after["stages"]) >= set(before["stages"])
    assert (run.path / "best.yaml").read_text() == text
    # Nor is the second best called the best.
    said = call("best", "tiny")
    assert said.exit_code == 1
    assert "has no longer all records of trial" in said.stdout
    assert "best student" not in said.stdout
    assert header(run) in said.stdout
    assert "stillhouse resume tiny-1 makes them again" in str(call("export", "tiny").exception)
    if harm == "removed":
        assert call("resume", "tiny", "--inline").exit_code == 0
        assert read_run(run).missing_repeats == ()


def test_a_report_leaves_the_files_of_a_user_alone(run):
    """And removes what an earlier outcome said of a group that there is no more."""
    told = run.read_json("outcome.json")
    grouped = [{**told["repeats"][0], "group": "parameters 67,000"}]
    run.write_json("outcome.json", {**told, "repeats": [*told["repeats"], *grouped]})
    mine, former = run.path / "best-of-mine.yaml", run.path / best_file_name("parameters 67,000")
    for file in (mine, former):
        file.write_text("name: mine\n")
    outcome = read_run(run).outcome
    kept = tuple(one for one in outcome.seed_runs if not one.group)
    write_outcome_data(load_run(run), replace(outcome, seed_runs=kept), run)
    assert mine.exists()
    assert not former.exists()
    assert (run.path / "best.yaml").exists()


def test_a_missing_study_is_told_and_nothing_is_overwritten(run):
    (run.path / "study.journal").unlink()
    table = (run.path / "trials.csv").read_text()
    said = call("report", "tiny")
    assert "study.journal: is missing" in str(said.exception)
    assert (run.path / "trials.csv").read_text() == table
    assert not (run.path / "study.journal").exists()


def test_another_library_may_be_named_for_a_reuse(run, tmp_path):
    shutil.rmtree(run.path.parents[1] / "stillhouse-library")
    words = ["--set", f"library={tmp_path}/other", "--seeds", "1", "--inline", "--json"]
    told = json.loads(call("reuse", "tiny", *words).stdout)
    assert told["state"] == "finished"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(told["folder"])


def rewritten(run, changes):
    """The run's experiment as an earlier version would have kept it."""
    file = run.path / "experiment.yaml"
    told = yaml.safe_load(file.read_text())
    for path, value in changes.items():
        set_value(told, path, value)
    file.write_text(yaml.safe_dump(told))


def test_a_run_that_searched_the_validation_images_is_shown_and_not_resumed(run):
    rewritten(run, {"search": {**TINY["search"], "data.split_seed": {"choice": [0, 1]}}})
    assert "best student" in call("best", "tiny").stdout
    assert call("report", "tiny").exit_code == 0
    refused = str(call("resume", "tiny", "--inline").exception)
    assert "search.data.split_seed: decides the validation images of students" in refused


SAID = {
    "contrast": {"weight": 0.8},
    "factors": {"weight": 0.25},
    "flow": {"weight": 50.0, "at": "stages"},
    "instance_graph": {"weight": 1.0, "vertices": 0.1, "edges": 5.0},
}


@pytest.mark.parametrize("method", REMOVED_PRESETS)
def test_a_preset_that_is_gone_said_the_defaults(method):
    assert parse_term(method, {}, method) == parse_term(method, SAID[method], method)


@pytest.mark.parametrize(("method", "preset"), REMOVED_PRESETS.items())
def test_a_run_with_a_preset_that_is_gone_is_shown(run, method, preset):
    objective = {"soft_targets": {}, method: {"preset": preset, "weight": 0.5}}
    rewritten(run, {"stages.student.objective": objective})
    assert load_run(run).stages["student"]["objective"][method] == {"weight": 0.5}
    assert "best student" in call("best", "tiny").stdout


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("interrupted", "tiny-1 was interrupted with 2 trials finished"),
        ("failed", "tiny-1 failed with 2 trials finished: out of luck"),
        ("killed", "tiny-1 was killed with 2 trials finished"),
    ],
)
def test_the_best_of_a_run_that_has_not_ended_says_so(run, state, sentence):
    (run.path / "outcome.json").unlink()
    (run.path / "best.yaml").unlink()
    told = {"state": "running" if state == "killed" else state, "reason": "out of luck"}
    if state != "failed":
        told.pop("reason")
    run.write_json("state.json", {**told, "seconds": 1.0})
    status = run.read_json(STATUS_FILE)
    run.write_json(STATUS_FILE, {**status, "state": "running", "at": 0.0})
    said = call("best", "tiny")
    assert said.exit_code == 1
    assert sentence in said.stdout
    assert "go on with: stillhouse resume tiny-1" in said.stdout
    assert "best so far, over one seed: trial" in said.stdout
    assert "keeps the goal's limits" not in said.stdout
    assert json.loads(call("best", "tiny", "--json").stdout)["state"] == state


def test_an_unknown_run_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    with pytest.raises(ConfigError, match=f"unknown run 'a' in {tmp_path}/runs, which has no runs"):
        RunFolder.find("a")
    RunFolder.new("tiny")
    with pytest.raises(ConfigError, match=f"'tinny' in {tmp_path}/runs; did you mean 'tiny-1'?"):
        RunFolder.find("tinny-1".replace("-1", ""))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "file"))
    for ask in (RunFolder.new, RunFolder.find):
        with pytest.raises(ConfigError, match="is a file, not a folder; set STILLHOUSE_RUNS"):
            ask("tiny")
