"""``do: invert`` and ``images``: a student without data, from its key to its figures."""

from __future__ import annotations

import copy

import pytest
import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.problems import ConfigError

FAST = {"epochs": 1, "batch_size": 32, "lr": 0.05}
TOLD = {
    "name": "data-free",
    "data": {"source": "digits", "limit": 100},
    "stages": {
        "teacher": {"network": "cnn4", "objective": {"cross_entropy": {}}, "training": FAST},
        "dreamt": {
            "do": "invert",
            "teacher": "teacher",
            "images": 40,
            "batch_size": 16,
            "steps": 3,
        },
        "student": {
            "network": {"cnn2": {"width": 0.5}},
            "images": "dreamt",
            "teachers": ["teacher"],
            "objective": {"cross_entropy": {}, "soft_targets": {}},
            "training": FAST,
        },
    },
}


def laid_out(student=None, dreamt=None, **stages):
    told = copy.deepcopy(TOLD)
    told["stages"]["student"].update(student or {})
    told["stages"]["dreamt"].update(dreamt or {})
    told["stages"] = {**stages, **told["stages"]}
    return load_experiment(told).stage_graph().student


def test_a_student_learns_on_what_its_teacher_dreamt(tmp_path):
    student, library = laid_out(), Library(str(tmp_path))
    for _ in build_stages([student], library):
        pass
    dreamt, teacher = student.parents
    assert (dreamt.label, teacher.label) == ("dreamt", "teacher")
    made = library.open_artifact(dreamt.key)
    assert made.tensors["images"].shape == (40, 1, 8, 8)
    assert torch.equal(made.tensors["labels"].bincount(), torch.full((10,), 4))
    assert len(made.record.curve) == dreamt.operation.epochs == 3
    assert {"teacher_accuracy", "norms"} <= set(made.record.figures)
    assert {"val_accuracy", "val_agreement"} <= set(library.record(student.key).figures)


def test_keys_follow_the_images():
    keys = {
        laid_out(**changes).key
        for changes in (
            {},
            {"dreamt": {"images": 41}},
            {"dreamt": {"batch_size": 8}},
            {"dreamt": {"steps": 4}},
            {"dreamt": {"lr": 0.2}},
            {"dreamt": {"norms": 2.0}},
            {"dreamt": {"variation": 0.1}},
            {"dreamt": {"l2": 0.1}},
            {"dreamt": {"seed": 1}},
        )
    }
    assert len(keys) == 9
    real = laid_out(student={"images": None})
    assert real.key not in keys
    assert "images" not in real.identity["work"]


def test_a_repetition_keeps_the_images():
    experiment = load_experiment(copy.deepcopy(TOLD))
    first, again = experiment.stage_graph(), experiment.stage_graph(seed_offset=1)
    assert [
        first.keys_by_label[name] == again.keys_by_label[name] for name in first.keys_by_label
    ] == [True, True, False]


BARE = {
    "network": "lenet5",
    "data": {"resize": 16},
    "objective": {"cross_entropy": {}},
    "training": FAST,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"student": {"images": "teacher"}},
            "images: teacher is a train, which makes no training images",
        ),
        ({"student": {"teachers": ["dreamt"]}}, "teachers: dreamt is a invert, no network"),
        (
            {"student": {"data": {"augment": {"noise": True}}, "objective": {"soft_targets": {}}}},
            "images: cannot be combined with data.augment.noise",
        ),
        ({"student": {"data": {"resize": 10}}}, "images: the shape of dreamt's images"),
        (
            {"dreamt": {"teacher": "bare", "data": {"resize": 16}}, "bare": BARE},
            "teacher: has no batch norm",
        ),
        ({"dreamt": {"steps": 0}}, "steps"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes, message):
    with pytest.raises(ConfigError, match=message):
        laid_out(**changes)
