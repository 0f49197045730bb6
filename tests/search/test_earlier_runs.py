"""A library and runs that an earlier version left: read, resumed, extended and used again.

``tests/fixtures/earlier`` was written by ``tests/fixtures/write.py`` before the code moved.
"""

from __future__ import annotations

import collections
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillhouse import launch, load_experiment, read_outcome, resume
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.app import app
from stillhouse.search.driver import driver
from stillhouse.search.driver.reuse import repeat_winner
from stillhouse.search.evaluation.baselines import make_baselines
from stillhouse.search.evaluation.finalists import select_finalists
from stillhouse.search.execution import builder as making
from stillhouse.search.monitoring.events import StageChanged, TrialEnded
from stillhouse.search.monitoring.mlflow import send_pending
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.kept import load_run, run_state
from stillhouse.search.runs.result import read_run

EARLIER = Path(__file__).parents[1] / "fixtures" / "earlier"
HALF = "15a48c7ff5aef1010034738940ad21674eae5824cb526a9ec1943e494e7559e9"
"""Key of the assistant that was being trained when the second run was stopped."""
TEACHER = "teacher"
NUMBERED = re.compile(
    r"(\btrial |stillhouse\.(?:stage|warning)\.|stillhouse\.key\.assistants/).+?(?=\.|$)"
)
"""Names that hold a number, a key or a label."""
BY_CHANCE = {"stillhouse.warning.N", "mlflow.source.git.commit"}
"""Tags where there is a warning, and where the working folder is a repository."""


@pytest.fixture(autouse=True)
def _as_left(tmp_path, monkeypatch):
    """The library and the runs, in a place of this test's own; no pictures, which take long."""
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("ROOT", str(tmp_path)), encoding="utf-8")
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "write_pages", lambda *_: [])
    monkeypatch.setattr(driver.Tracker, "log_winner", lambda *_, **__: None)
    making._OPEN_ARTIFACTS.clear()


class Heard:
    """What a launch tells of its stages and trials."""

    def __init__(self):
        self.stages = collections.defaultdict(list)
        self.epochs = collections.defaultdict(list)
        self.trials = []

    def __call__(self, event):
        if isinstance(event, StageChanged) and event.state == "running":
            self.epochs[event.key].append(event.epoch)
        elif isinstance(event, StageChanged):
            self.stages[event.state].append(event.label)
        elif isinstance(event, TrialEnded):
            self.trials.append((event.number, event.state))


def library(tmp_path):
    return Library(str(tmp_path / "library"))


def operations(name):
    """What a run's outbox holds."""
    file = EARLIER / "runs" / name / "tracking" / "operations.jsonl"
    return in_outbox(file)


def curve_of(saved):
    """The reports in the saved state of a half-done stage."""
    return json.loads(bytes(saved["curve"].tolist()))


def in_outbox(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def names_by_kind(found):
    """(kind of run, field) -> names of parameters, metrics or tags that MLflow is told."""
    names = collections.defaultdict(set)
    for each in found:
        kind = each["run"].partition("-")[0]
        for field in ("params", "metrics", "tags"):
            told = each.get(field, {})
            names[kind, field] |= {NUMBERED.sub(r"\1N", name) for name in told}
    return names


def run_anew(tmp_path, experiment):
    """Keys of all that the whole run of an experiment rests on, computed by the code of today."""
    run = read_run(RunFolder.find(experiment.name))
    best = max(run.outcome.trials, key=lambda trial: trial.figures["val_accuracy"])
    recipes = [experiment.stage_graph(trial.values) for trial in run.outcome.trials]
    for each in select_finalists(experiment, [best]):
        recipes += each.graphs.values()
        for other in make_baselines(experiment, each, library(tmp_path)):
            recipes += other.graphs.values()
    return {stage.key for recipe in recipes for stage in recipe.student.ancestors()}


# Reading


def test_every_key_of_a_trial_is_the_one_that_today_computes():
    for name in ("ended", "stopped"):
        folder = RunFolder.find(name)
        experiment = load_run(folder)
        trials = read_outcome(folder).trials
        assert trials
        for trial in trials:
            assert experiment.stage_graph(trial.values).keys_by_label == dict(trial.stage_keys), (
                name
            )


def test_every_key_of_the_library_is_one_that_today_computes(tmp_path):
    first, second = (load_run(RunFolder.find(name)) for name in ("ended", "stopped"))
    keys = run_anew(tmp_path, first)
    for trial in read_outcome(RunFolder.find("stopped")).trials:
        keys |= set(second.stage_graph(trial.values).keys_by_label.values())
    assert HALF in keys
    assert set(library(tmp_path).keys()) <= keys


def test_every_artifact_opens_and_is_whole(tmp_path):
    found = library(tmp_path)
    for record in found.records():
        artifact = found.open_artifact(record.key)
        assert artifact.tensors
        assert artifact.record.curve[-1]["val_accuracy"] >= 0
    assert found.all_references().keys() == found.statuses().keys()


def test_a_finished_run_is_read():
    folder = RunFolder.find("ended")
    run, outcome = read_run(folder), read_outcome(folder)
    assert run.missing_repeats == ()
    assert run_state(folder).state == "finished"
    assert [trial.state for trial in outcome.trials] == ["finished"] * 3
    roles = [each["role"] for each in run.written_outcome["repeats"]]
    assert [repeated.role for repeated in outcome.seed_runs] == roles
    for repeated, told in zip(outcome.seed_runs, run.written_outcome["repeats"], strict=True):
        assert [record.key for record in repeated.records] == told["keys"]
    assert outcome.records.keys() == set(run.written_outcome["stages"])


def call(*words):
    said = CliRunner().invoke(app, list(words))
    assert said.exit_code == 0, said.output
    return said.stdout


def test_the_commands_tell_of_it(tmp_path):
    assert "finished" in call("status", "ended")
    told = json.loads(call("status", "stopped", "--json"))
    assert (told["state"], told["trials"]["ended"]) == (
        "interrupted",
        {"finished": 1, "interrupted": 1},
    )
    best = json.loads(call("best", "ended", "--json"))
    written = json.loads((tmp_path / "runs" / "ended-1" / "outcome.json").read_text())
    assert best["winner"] == written["winner"]
    assert "student" in call("library", "list", "--library", "library")


def test_the_page_is_drawn_again(tmp_path):
    folder = tmp_path / "runs" / "ended-1"
    before = json.loads((folder / "outcome.json").read_text())
    call("report", "ended")
    after = json.loads((folder / "outcome.json").read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    assert "trial 2" in (folder / "report.html").read_text(encoding="utf-8")


# Going on


def test_a_stopped_run_is_resumed_and_makes_nothing_twice(tmp_path):
    made, saved = set(library(tmp_path).keys()), curve_of(library(tmp_path).load_scratch(HALF))
    assert HALF not in made
    heard = Heard()
    launched = resume("stopped", inline=True, observers=[heard])
    assert launched.state == "finished"
    assert [trial.state for trial in launched.outcome.trials] == ["finished", "finished"]
    curve = library(tmp_path).record(HALF).curve
    assert (len(saved), len(curve)) == (1, 2)
    assert curve[0] == saved[0], "it goes on from its last saved epoch, seconds and all"
    assert not made & heard.epochs.keys()
    assert TEACHER not in heard.stages["made"]
    assert not list((tmp_path / "library" / "scratch").iterdir())


def test_a_resumed_run_tells_mlflow_by_the_same_names(tmp_path):
    before = operations("stopped-1")
    resume("stopped", inline=True)
    outbox = tmp_path / "runs" / "stopped-1" / "tracking" / "operations.jsonl"
    found = in_outbox(outbox)
    assert len(found) > len(before)
    assert [each["do"] for each in found[: len(before)]] == [each["do"] for each in before]
    known = names_by_kind([*operations("ended-1"), *before])
    now = names_by_kind(found[len(before) :])
    for kind in ("trial", "search"):
        for field in ("metrics", "tags"):
            more = now[kind, field] - known[kind, field]
            assert more <= BY_CHANCE, (kind, field)
    whole = names_by_kind(found)
    assert whole["trial", "metrics"] == names_by_kind(operations("ended-1"))["trial", "metrics"]
    assert "stillhouse.key" in whole["stage", "tags"]


def test_a_finished_run_is_extended(tmp_path):
    made, heard = set(library(tmp_path).keys()), Heard()
    launched = resume("ended", inline=True, trials=2, observers=[heard])
    assert launched.state == "finished"
    assert len(launched.outcome.trials) == 5
    assert [number for number, _ in heard.trials] == [3, 4]
    assert not made & heard.epochs.keys()
    assert TEACHER not in heard.stages["made"]


def test_the_same_search_launched_anew_makes_nothing():
    """Its sampler proposes what it proposed, and all of it is in the library."""
    heard = Heard()
    experiment = replace(load_run(RunFolder.find("ended")), name="anew")
    launched = launch(experiment, inline=True, observers=[heard])
    first = read_outcome(RunFolder.find("ended"))
    assert heard.stages["made"] == []
    for trial, earlier in zip(launched.outcome.trials, first.trials, strict=True):
        assert (trial.values, trial.stage_keys) == (earlier.values, earlier.stage_keys)
        assert trial.figures["val_accuracy"] == earlier.figures["val_accuracy"]


def test_its_best_is_used_again(tmp_path):
    file = tmp_path / "runs" / "ended-1" / "best.yaml"
    (known,) = (
        repeated
        for repeated in read_outcome(RunFolder.find("ended")).seed_runs
        if repeated.role.startswith("trial ")
    )
    experiment = load_experiment(file)
    keys = [experiment.stage_graph(seed_offset=seed).student.key for seed in known.seeds]
    assert keys == [record.key for record in known.records]
    made, heard = set(library(tmp_path).keys()), Heard()
    launched = launch(
        repeat_winner("ended", {}, 1, None), inline=True, test=True, observers=[heard]
    )
    assert launched.state == "finished"
    assert not made & heard.epochs.keys()
    assert heard.stages["made"], "its seeds are fresh"


# MLflow


def test_what_mlflow_had_not_heard_is_sent(tmp_path):
    from mlflow import MlflowClient

    from stillhouse.search.monitoring.mlflow import prepare_store

    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "runs" / "ended-1"
    prepare_store(uri, "ended")
    note = folder / "tracking" / "search.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "uri": uri}))
    for sent in operations("ended-1"):
        for path in sent.get("paths", ()):
            (folder / path).touch()
    assert send_pending(folder) == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ended")
    runs = client.search_runs([experiment.experiment_id])
    begun = [each["tags"] for each in operations("ended-1") if each["do"] == "begin"]
    assert len(runs) == len(begun)
    for tags in begun:
        assert any(tags.items() <= run.data.tags.items() for run in runs), tags
    trials = [run for run in runs if run.data.tags["stillhouse.kind"] == "trial"]
    known = names_by_kind(operations("ended-1"))
    assert set().union(*(run.data.metrics for run in trials)) == known["trial", "metrics"]
    assert {run.info.status for run in runs} == {"FINISHED"}
