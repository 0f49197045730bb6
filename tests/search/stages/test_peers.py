"""``do: peers`` as a stage: its key, its figures, its product, and that it can be interrupted."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.execution.builder import build_stage, build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.problems import ConfigError

FAST = {"epochs": 2, "batch_size": 32, "lr": 0.05}
MUTUAL = {"cross_entropy": {}, "soft_targets": {"temperature": 1.0}}
TOLD = {
    "name": "mutual",
    "data": {"source": "digits", "limit": 100},
    "stages": {
        "student": {
            "do": "peers",
            "network": {"cnn2": {"width": 0.5}},
            "peers": ["cnn2", {"cnn4": {"width": 0.5}}],
            "objective": MUTUAL,
            "training": FAST,
        }
    },
}


def laid_out(**changes):
    told = copy.deepcopy(TOLD)
    told["stages"]["student"].update(changes)
    return load_experiment(told).stage_graph().student


def untimed(curve):
    left_out = ("seconds", "images_per_second")
    return [{k: v for k, v in report.items() if k not in left_out} for report in curve]


def test_the_student_is_the_product_and_peers_are_figures(tmp_path):
    student, library = laid_out(), Library(str(tmp_path))
    reports = [report for _, report in build_stages([student], library)]
    record = library.record(student.key)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert {"val_accuracy", "peer1_val_accuracy", "peer2_val_accuracy"} <= set(record.figures)
    assert record.figures["parameters"] == student.operation.costs(student.data)["parameters"]
    network = load_network(library.open_artifact(student.key))
    assert network(torch.rand(2, 1, 8, 8)).logits.shape == (2, 10)


def test_interrupted_it_ends_with_the_same_bits(tmp_path):
    student = laid_out(training={**FAST, "epochs": 3})
    whole, broken = Library(str(tmp_path / "a")), Library(str(tmp_path / "b"))
    for _ in build_stages([student], whole):
        pass
    running = build_stage(student, broken, save_interval_s=0.0)
    list(itertools.islice(running, 2))
    running.close()
    for _ in build_stages([student], broken):
        pass
    one, other = whole.open_artifact(student.key), broken.open_artifact(student.key)
    assert untimed(one.record.curve) == untimed(other.record.curve)
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


def test_what_is_said_of_peers_is_in_the_key():
    keys = [
        laid_out(**changes).key
        for changes in (
            {},
            {"peers": ["cnn2"]},
            {"peers": [{"cnn4": {"width": 0.5}}, "cnn2"]},
            {"seed": 1},
            {"objective": {**MUTUAL, "soft_targets": {"temperature": 2.0}}},
        )
    ]
    assert len(set(keys)) == len(keys)


def test_a_frozen_teacher_teaches_all_of_them(tmp_path):
    told = copy.deepcopy(TOLD)
    teacher = {"network": "cnn4", "objective": {"cross_entropy": {}}, "training": FAST}
    told["stages"] = {"teacher": teacher, **told["stages"]}
    told["stages"]["student"]["teachers"] = ["teacher"]
    student = load_experiment(told).stage_graph().student
    assert [parent.label for parent in student.parents] == ["teacher"]
    library = Library(str(tmp_path))
    for _ in build_stages([student], library):
        pass
    assert "val_agreement" in library.record(student.key).figures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peers": []}, "peers: is empty"),
        ({"objective": {"cross_entropy": {}}}, "objective: has no method that uses"),
        ({"peers": ["cnn3"]}, "unknown network 'cnn3'"),
        ({"peers": ["resnet18"]}, "needs images of at least|resnet18"),
        ({"teachers": ["nobody"]}, "unknown stage 'nobody'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes, message):
    with pytest.raises(ConfigError, match=message):
        laid_out(**changes)


def test_its_settings_may_be_searched():
    told = copy.deepcopy(TOLD)
    told["search"] = {
        "student.objective.soft_targets.temperature": "declared",
        "student.peers": {"choice": [["cnn2"], ["cnn2", "cnn4"]]},
        "student.training.lr": "declared",
    }
    told["goal"] = {"maximize": "student.val_accuracy"}
    told["run"] = {"trials": 2, "repeats": {"top": 0}}
    experiment = load_experiment(told)
    recipe = experiment.stage_graph({"student.peers": ["cnn2", "cnn4"]})
    assert [peer.label for peer in recipe.student.operation.peers] == ["cnn2", "cnn4"]
