"""A run goes on only where its trials would be the same ones today."""

import json
import os
import time

import pytest
import torch
import yaml
from safetensors.torch import save_file

from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.search.artifacts.store import Library
from stillhouse.search.driver.launch import resume
from stillhouse.search.driver.resuming import _GraphCache, check_unchanged
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.experiment import to_yaml
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.tuning.study import Study
from stillhouse.spaces.config.problems import ConfigError

FIGURES = {"val_accuracy": 0.5}


@pytest.fixture
def run(load, tmp_path, monkeypatch):
    """A run with a trial that ended, one that was pruned, one that failed and one at work."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))

    def begun(changes=None, made=("teacher",), **top):
        experiment = load(changes, **top)
        folder = RunFolder.new("tiny")
        folder.write_yaml("experiment.yaml", to_yaml(experiment.plain()))
        study = Study(experiment, folder.path)
        asked = [study.ask() for _ in range(4)]
        study.tell(0, FIGURES)
        study.prune(1, FIGURES, "stopped")
        study.fail(2, "no luck")
        library = Library(experiment.library)
        for stage in asked[0].graph.student.ancestors():
            if stage.label in made:
                list(build_stages([stage], library))
        return folder

    return begun


def refused(folder):
    """The one line with which a resume is refused; nothing has been written or made."""
    before = {file: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}
    with pytest.raises(ConfigError) as error:
        resume("tiny", inline=True, trials=1)
    after = {file: file.read_bytes() for file in before}
    assert after == before
    (line,) = str(error.value).splitlines()
    assert line.startswith("tiny-1: cannot go on, since trial 0 would be another one today: ")
    assert line.endswith("; bring back what it was, or launch a new search")
    return line


def change(folder, found):
    """Lay something over the run's file, as a user would who edits it."""
    told = yaml.safe_load((folder.path / "experiment.yaml").read_text(encoding="utf-8"))
    for place, value in found.items():
        *path, last = place.split(".")
        inner = told
        for name in path:
            inner = inner[name]
        inner[last] = value
    folder.write_yaml("experiment.yaml", to_yaml(told))


def test_a_run_that_did_not_change_may_go_on(run):
    folder = run()
    check_unchanged(load_experiment(folder.path / "experiment.yaml"), folder)


def test_other_data_is_named_by_its_place(run):
    folder = run()
    change(folder, {"data.limit": 90})
    assert "teacher has changed (data.limit was 100, is 90);" in refused(folder)


def test_what_is_no_longer_in_the_library_is_named_by_its_stage(run):
    folder = run(made=())
    change(folder, {"data.limit": 90})
    assert "teacher has changed; what it was is not in the library;" in refused(folder)


def test_a_stage_further_on_is_named_where_the_first_are_the_same(run):
    folder = run(made=("teacher", "assistants/cnn6", "assistants/cnn4", "student"))
    change(folder, {"stages.student.training.batch_size": 16})
    line = refused(folder)
    assert "student has changed (work.taught.training.batch_size was 32, is 16);" in line


def test_a_method_of_another_version_is_refused(run, monkeypatch):
    folder = run(made=("teacher", "assistants/cnn6", "assistants/cnn4", "student"))
    monkeypatch.setattr(SoftTargets, "version", SoftTargets.version + 1)
    assert "work.taught.objective.soft_targets.version was 1, is 2" in refused(folder)


def test_another_file_of_weights_is_refused(run, tmp_path):
    from stillhouse.spaces.network_spec import NetworkSpec

    file = tmp_path / "teacher.safetensors"
    network = NetworkSpec.parse("cnn8").build((1, 8, 8), 10)

    def save():
        state = {n: t.contiguous() for n, t in network.state_dict().items()}
        save_file(state, file)

    save()
    weights = {"stages.teacher": {"network": "cnn8", "weights": {"path": str(file)}}}
    folder = run(weights)
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    save()
    os.utime(file, (time.time() + 5, time.time() + 5))
    line = refused(folder)
    assert "teacher has changed (work.weights." in line, line


def test_trials_that_failed_and_trials_without_keys_hold_up_nothing(run):
    """What failed teaches nothing, and studies of early versions kept no keys."""
    folder = run()
    journal = folder.path / "study.journal"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        told = entry.get("user_attr", {})
        if "keys" in told and entry["trial_id"] == 2:
            told["keys"] = dict.fromkeys(told["keys"], "0" * 64)
        elif "keys" in told:
            told["keys"] = {}
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    check_unchanged(load_experiment(folder.path / "experiment.yaml"), folder)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_each_trial_that_counts_is_compared(run, number):
    """One that finished, one that was pruned, one that is left running."""
    folder = run()
    journal = folder.path / "study.journal"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        told = entry.get("user_attr", {})
        if "keys" in told and entry["trial_id"] == number:
            told["keys"]["student"] = "0" * 64
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    experiment = load_experiment(folder.path / "experiment.yaml")
    with pytest.raises(ConfigError, match=f"trial {number} would be another one today: student"):
        check_unchanged(experiment, folder)


def test_a_run_with_other_values_than_are_searched_is_refused(run):
    folder = run()
    experiment = load_experiment(folder.path / "experiment.yaml")
    told = experiment.plain()
    told["stages"]["student"]["network"] = {"cnn2": {"width": 0.5}}
    told["goal"] = {"maximize": "student.val_accuracy"}
    with pytest.raises(ConfigError, match="student has changed"):
        check_unchanged(load_experiment(told), folder)


def test_layouts_have_the_keys_of_recipes(load, tmp_path):
    study = Study(load({"run.trials": 30}), tmp_path / "run")
    layouts = _GraphCache(load({"run.trials": 30}))
    for _ in range(12):
        proposal = study.ask()
        assert layouts.graph(proposal.values).keys_by_label == proposal.graph.keys_by_label


def test_what_trials_share_is_laid_out_once(run, monkeypatch):
    """Thousands of trials rest on one teacher: it is parsed and laid out a single time."""
    folder = run()
    experiment = load_experiment(folder.path / "experiment.yaml")
    laid = []
    entry = type(experiment.stage_configs["teacher"])
    lay_out = entry.expand
    monkeypatch.setattr(
        entry, "expand", lambda self, name, *rest: laid.append(name) or lay_out(self, name, *rest)
    )
    check_unchanged(experiment, folder)
    assert laid.count("teacher") == 1
    assert laid.count("student") == 3  # each has values of its own
