"""Networks with subclasses in a recipe: written, brought, rebuilt, cut, and measured."""

import copy

import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import (
    BlockReplacement,
    assemble_network,
    load_network,
    reinitialise,
)
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.subclasses import num_subclasses
from stillhouse.spaces.network_spec import NetworkSpec

FAST = {"epochs": 2, "batch_size": 64, "lr": 0.05}
MERGE = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
TWO = {
    "name": "two",
    "data": {"source": "digits", "limit": 300, "validation": 0.2, "merge": MERGE},
    "stages": {
        "teacher": {
            "network": {"resnet8": {"width": 0.25}},
            "objective": {"cross_entropy": {}},
            "training": FAST,
        },
        "student": {
            "network": {"cnn2": {"width": 0.25}},
            "teachers": ["teacher"],
            "objective": {"cross_entropy": {}, "subclasses": {"subclasses": 3}},
            "training": FAST,
        },
    },
    "run": {"repeats": {"top": 0}, "baselines": False},
}


@pytest.fixture
def two(tmp_path):
    return {**copy.deepcopy(TWO), "library": str(tmp_path / "library")}


def teacher_of(told, changes=None):
    (teacher,) = load_experiment(told, changes).stage_graph().student.parents
    return teacher


def problems(told, changes=None):
    with pytest.raises(ConfigError) as caught:
        load_experiment(told, changes)
    return "\n".join(map(str, caught.value.problems))


# Brought


def test_a_teacher_of_whole_classes_is_made_again_with_subclasses(two):
    student = load_experiment(two).stage_graph().student
    (teacher,) = student.parents
    assert teacher.label == "teacher/subclasses3"
    plain = load_experiment(two).stage_graph().expanded_stages["teacher"].stage
    assert plain.subclasses == 1
    assert teacher.subclasses == student.subclasses == 3
    told = teacher.operation.objective.plain()
    assert told["subclass_contrast"]["weight"] == 0.3
    assert told["cross_entropy"] == plain.operation.objective.plain()["cross_entropy"]
    same = {"network": plain.operation.network, "objective": plain.operation.objective}
    assert teacher.operation.model_copy(update=same) == plain.operation


def test_the_teachers_auxiliary_loss_is_searched_with_the_student(two):
    changes = {
        "student.objective.subclasses.contrast": 1.0,
        "student.objective.subclasses.tau": 0.1,
    }
    added = teacher_of(two, changes).operation.objective.terms["subclass_contrast"]
    assert (added.weight, added.tau) == (1.0, 0.1)
    without = teacher_of(two, {"student.objective.subclasses.contrast": 0.0})
    assert "subclass_contrast" not in without.operation.objective.terms


def test_a_teacher_that_splits_its_classes_is_used_as_it_is(two):
    two["stages"]["teacher"] |= {"subclasses": 3}
    assert teacher_of(two).label == "teacher"
    two["stages"]["teacher"]["objective"]["subclass_balance"] = {}
    assert "subclass_contrast" not in teacher_of(two).operation.objective.terms


def test_an_own_contrast_of_the_teacher_stays(two):
    two["stages"]["teacher"] |= {"subclasses": 3}
    two["stages"]["teacher"]["objective"]["subclass_contrast"] = {"weight": 0.7}
    assert teacher_of(two).operation.objective.terms["subclass_contrast"].weight == 0.7


def test_one_subclass_is_the_plain_teacher_and_student(two):
    student = (
        load_experiment(two, {"student.objective.subclasses.subclasses": 1}).stage_graph().student
    )
    assert student.parents[0].label == "teacher"
    assert student.subclasses == 1


def test_numbers_of_subclasses_are_searched_and_share_the_rest(two):
    two["stages"]["student"]["objective"]["soft_targets"] = {}
    search = {"student.objective.subclasses.subclasses": {"choice": [1, 2, 5]}}
    experiment = load_experiment(
        {**two, "search": search, "goal": {"maximize": "student.val_accuracy"}}
    )
    labels = [list(experiment.stage_graph(v).keys_by_label) for v in experiment.configurations(3)]
    assert labels == [
        ["teacher", "student"],
        ["teacher/subclasses2", "student"],
        ["teacher/subclasses5", "student"],
    ]


def test_links_of_a_chain_are_split_as_their_objective_asks(two):
    two["stages"]["teacher"]["network"] = "cnn6"
    two["stages"]["assistants"] = {
        "do": "chain",
        "teacher": "teacher",
        "networks": ["cnn4"],
        "objective": copy.deepcopy(two["stages"]["student"]["objective"]),
        "training": FAST,
    }
    two["stages"]["student"] = {**two["stages"].pop("student"), "teachers": ["assistants"]}
    stages = load_experiment(two).stage_graph().student.ancestors()
    assert [(s.label, s.subclasses) for s in stages] == [
        ("teacher/subclasses3", 3),
        ("assistants/cnn4", 3),
        ("student", 3),
    ]


# Refused


def test_a_ready_made_teacher_cannot_be_split(two, tmp_path, published):
    published(tmp_path / "weights.safetensors", "cnn8", classes=2)
    two["stages"]["teacher"] = {
        "network": "cnn8",
        "weights": str(tmp_path / "weights.safetensors"),
    }
    told = problems(two)
    assert "student.objective.subclasses.subclasses" in told
    assert "teacher is pretrained" in told
    assert "use soft_targets" in told


def test_unequal_numbers_are_refused_before_anything_runs(two):
    assert "teacher splits every class into 2" in problems(two, {"teacher.subclasses": 2})
    assert "is 2, but the objective requires 3" in problems(two, {"student.subclasses": 2})


def test_an_auxiliary_loss_without_subclasses_is_refused(two):
    told = problems(two, {"teacher.objective.subclass_contrast": {}})
    assert "teacher.objective.subclass_contrast" in told
    assert "set subclasses: 5" in told


def test_a_network_gone_on_from_has_its_own(two):
    two["stages"]["teacher"] |= {"subclasses": 3}
    two["stages"]["student"]["start"] = "teacher"
    del two["stages"]["student"]["network"]
    assert load_experiment(two).stage_graph().student.subclasses == 3
    assert "remove it" in problems(two, {"student.subclasses": 3})


@pytest.mark.parametrize(
    ("figure", "changes", "message"),
    [
        ("val_subclass_usage", {"student.objective": {"soft_targets": {}}}, "splits classes"),
        ("val_subclass_recovery", {"data.merge": None}, "needs merged classes; set data.merge"),
        ("val_task_accuracy", {}, "needs a subset of the classes"),
        ("forgetting", {}, "start: <an entry>"),
    ],
)
def test_goals_that_cannot_be_measured_are_refused(two, figure, changes, message):
    goal = {"maximize": f"student.{figure}"}
    assert message in problems({**two, "goal": goal}, changes)


def test_goals_that_can_be_measured_are_not(two):
    for figure in ("val_subclass_recovery", "val_subclass_majority", "val_subclass_usage"):
        load_experiment({**two, "goal": {"maximize": f"student.{figure}"}})


# Keys, made and rebuilt


def test_keys_without_subclasses_are_what_they_were(two):
    plain = {"student.objective": {"cross_entropy": {}, "soft_targets": {}}}
    key = load_experiment(two, plain).stage_graph().student.key
    for said in (None, 1):
        told = load_experiment(two, {**plain, "student.subclasses": said})
        assert told.stage_graph().student.key == key
    assert load_experiment(two, {**plain, "student.subclasses": 2}).stage_graph().student.key != key


@pytest.fixture
def made(two):
    experiment = load_experiment(two)
    library = Library(experiment.library)
    student = experiment.stage_graph().student
    for _ in build_stages([student], library):
        pass
    return student, library


def test_what_is_made_is_rebuilt_and_measured(made):
    stage, library = made
    for each in stage.ancestors():
        artifact = library.open_artifact(each.key)
        network = load_network(artifact)
        assert num_subclasses(network) == 3
        assert network.blocks["head"](torch.zeros(1, *_entering(network))).shape[1] == 6
        figures = artifact.record.figures
        assert {"val_subclass_recovery", "val_subclass_majority", "val_subclass_usage"} < set(
            figures
        )
        assert figures["parameters"] == compute_costs(network, (1, 8, 8)).parameters
        again = evaluate(network, open_data(each.data), "validation", device="cpu")
        assert again["subclass_recovery"] == figures["val_subclass_recovery"]
        assert artifact.record.facts["data"]["classes"] == 2
        assert num_subclasses(reinitialise(artifact)) == 3
    assert "train_subclass_contrast" in library.record(stage.parents[0].key).figures


def _entering(network):
    with torch.no_grad():
        features = network(torch.zeros(1, 1, 8, 8), None).features
    return features[network.names[-3]].shape[1:]


def test_a_start_is_rebuilt_with_its_subclasses(two):
    two["stages"]["teacher"] |= {"subclasses": 3}
    two["stages"]["student"]["start"] = "teacher"
    del two["stages"]["student"]["network"]
    experiment = load_experiment(two)
    library = Library(experiment.library)
    student = experiment.stage_graph().student
    for _ in build_stages([student], library):
        pass
    assert num_subclasses(load_network(library.open_artifact(student.key))) == 3


# Cut


def test_an_assembly_keeps_head_and_subclasses():
    torch.manual_seed(0)
    spec = NetworkSpec.parse({"resnet14": {"width": 0.5}}).with_num_subclasses(3)
    teacher = spec.build((1, 8, 8), 2).eval()
    count = len(teacher.names) - 3  # stem, head, classes
    pieces = [BlockReplacement(i, i + 1, BlockSpec.parse("kept")) for i in range(1, count + 1)]
    modules = [teacher.span(p.start, p.stop) for p in pieces]
    whole = assemble_network(teacher, (1, 8, 8), pieces, modules)
    images = torch.rand(2, 1, 8, 8)
    assert whole.names == teacher.names
    assert torch.equal(whole.eval()(images).logits, teacher(images).logits)
    narrow = [
        *pieces[:-1],
        BlockReplacement(count, count + 1, BlockSpec.parse("depthwise"), leave=0.5),
    ]
    network = assemble_network(teacher, (1, 8, 8), narrow)
    assert num_subclasses(network) == 3
    assert network.eval()(images).logits.shape == (2, 2)


def test_neighbourhoods_of_such_a_teacher_are_searched_and_assembled(two):
    del two["stages"]["student"]
    two["stages"]["teacher"] |= {"subclasses": 3, "network": {"resnet8": {"width": 0.5}}}
    two["stages"]["parts"] = {
        "do": "neighbourhoods",
        "teacher": "teacher",
        "candidates": ["depthwise"],
        "longest": 1,
        "widths": [1.0, 0.5],
        "training": {**FAST, "epochs": 1},
    }
    two["stages"]["assembled"] = {
        "do": "assemble",
        "neighbourhoods": "parts",
        "recalibrate": 1,
        "budgets": {"parameters": 9_000},
    }
    experiment = load_experiment(two)
    library = Library(experiment.library)
    stage = experiment.stage_graph().student
    for _ in build_stages([stage], library):
        pass
    artifact: Artifact = library.open_artifact(stage.key)
    network = load_network(artifact)
    assert num_subclasses(network) == 3
    assert artifact.record.figures["parameters"] == compute_costs(network, (1, 8, 8)).parameters
    assert "val_subclass_recovery" in artifact.record.figures
