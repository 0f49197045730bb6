"""``sees``: a student of another modality than its teachers, from its key to its use."""

from __future__ import annotations

import copy

import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network, reinitialise
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.problems import ConfigError

FAST = {"epochs": 2, "batch_size": 32, "lr": 0.05}
TOLD = {
    "name": "cross-modal",
    "data": {"source": "digits", "limit": 100, "augment": {"crop": 1}},
    "stages": {
        "teacher": {"network": "cnn4", "objective": {"cross_entropy": {}}, "training": FAST},
        "student": {
            "network": "cnn2",
            "sees": {"size": 4},
            "teachers": ["teacher"],
            "objective": {"soft_targets": {}, "attention": {}},
            "training": FAST,
        },
    },
}


def recipe(**changes):
    told = copy.deepcopy(TOLD)
    told["stages"]["student"].update(changes)
    return load_experiment(told).stage_graph()


def shown(x):
    """Images whose areas of 2x2 pixels are of one grey, as the student's view of ``x`` shows."""
    coarse = torch.nn.functional.avg_pool2d(x, 2)
    return coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    library = Library(str(tmp_path_factory.mktemp("library")))
    student = recipe().student
    for _ in build_stages([student], library):
        pass
    return student, library


def test_what_was_made_is_rebuilt_with_its_view(made):
    student, library = made
    network = load_network(library.open_artifact(student.key))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(network(shown(x)).logits, network(x).logits)
    figures = library.record(student.key).figures
    costs = student.operation.costs(student.data)
    assert {name: figures[name] for name in costs} == costs
    whole = recipe(sees=None).student
    assert costs["flops"] < whole.operation.costs(whole.data)["flops"]
    assert student.key != whole.key
    fresh = reinitialise(library.open_artifact(student.key))
    torch.testing.assert_close(fresh(shown(x)).logits, fresh(x).logits)


def test_the_teacher_goes_on_seeing_the_whole_image(made):
    """Its part in the student's agreement is what it says of full images."""
    student, library = made
    (parent,) = student.parents
    artifact = library.open_artifact(parent.key)
    teacher, network = load_network(artifact), load_network(library.open_artifact(student.key))
    x = next(open_data(student.data).batches("validation", batch_size=500, device="cpu")).images
    assert not torch.equal(teacher(x).logits, teacher(shown(x)).logits)
    agreed = network(x).logits.argmax(dim=1) == teacher(x).logits.argmax(dim=1)
    found = library.record(student.key).figures["val_agreement"]
    assert found == pytest.approx(agreed.double().mean().item(), abs=0.02)
    assert all(torch.equal(v, artifact.tensors[k]) for k, v in teacher.state_dict().items())


def test_who_goes_on_from_it_sees_the_same(made):
    _, library = made
    told = copy.deepcopy(TOLD)
    told["stages"]["later"] = {
        "start": "student",
        "objective": {"cross_entropy": {}},
        "training": FAST,
    }
    later = load_experiment(told).stage_graph().student
    for _ in build_stages([later], library):
        pass
    network = load_network(library.open_artifact(later.key))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network(shown(x)).logits, network(x).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sees": {"grey": True}}, "stages.student.*grey: needs images of 3 channels, found 1"),
        ({"sees": {"size": 9}}, "must be at most the images' 8x8"),
        ({"network": None, "start": "teacher"}, "sees: needs a new network"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_a_view_may_be_searched():
    told = copy.deepcopy(TOLD)
    told["search"] = {"student.sees.size": {"choice": [4, 8]}}
    told["goal"] = {"maximize": "student.val_accuracy"}
    told["run"] = {"trials": 2, "repeats": {"top": 0}}
    experiment = load_experiment(told)
    shown = {values["student.sees.size"] for values in experiment.configurations(2)}
    assert shown == {4, 8}
