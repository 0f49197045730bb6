"""Heads as stages: attached once, carried along, brought by the method that wants them."""

import pytest
import torch

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import load_network, network_description
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.problems import ConfigError

TEACHING = {"epochs": 2, "batch_size": 32, "lr": 0.02}
CO_TEACH = {"cross_entropy": {"weight": 0.1}, "heads": {"weight": 0.5, "training": TEACHING}}


@pytest.fixture
def taught(tiny):
    """A student that learns from all heads of its teacher, which has none yet."""
    del tiny["stages"]["assistants"], tiny["search"]
    tiny["stages"]["student"] |= {"teachers": ["teacher"], "objective": CO_TEACH}
    return tiny


@pytest.fixture
def named(taught):
    """The same with the heads as an entry of their own."""
    student = taught["stages"].pop("student")
    heads = {"do": "heads", "teacher": "teacher", "training": TEACHING}
    taught["stages"] |= {"heads": heads, "student": {**student, "teachers": ["heads"]}}
    return taught


def loaded(told, changes=None, **top):
    return load_experiment({**told, **top}, changes)


def made(experiment, library, entry=None):
    """The artifacts of an experiment's stages by label."""
    recipe = experiment.stage_graph()
    stages = recipe.expanded_stages[entry].teaching_stages if entry else [recipe.student]
    list(build_stages(stages, library))
    found = {s.label: library.open_artifact(s.key) for stage in stages for s in stage.ancestors()}
    assert all(isinstance(artifact, Artifact) for artifact in found.values())
    return found


def test_the_entry_is_the_teacher_with_heads(named, library):
    found = made(loaded(named), library, "heads")
    teacher, heads = load_network(found["teacher"]), load_network(found["heads"])
    assert list(heads.heads) == ["conv1", "conv3", "conv5", "conv8"]
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, heads.state_dict()[name]), name
    record, own = found["heads"].record, found["teacher"].record
    assert record.figures["val_accuracy"] == own.figures["val_accuracy"]
    assert record.figures["parameters"] == own.figures["parameters"]
    for name in heads.heads:
        assert 0 <= record.figures[f"{name}_head_val_accuracy"] <= 1
        best = record.figures[f"{name}_head_best_epoch"]
        told = record.curve[int(best) - 1][f"{name}_head_val_accuracy"]
        assert told == record.figures[f"{name}_head_val_accuracy"]


def test_heads_go_where_they_are_said_to(named, library):
    found = made(loaded(named, {"heads.at": ["conv2", "conv4"]}), library, "heads")
    assert list(load_network(found["heads"]).heads) == ["conv2", "conv4"]


def test_a_student_goes_on_from_a_network_with_heads(named, library):
    """It keeps them, untouched, and can be built again."""
    student = {k: v for k, v in named["stages"]["student"].items() if k != "network"}
    student |= {"start": "heads", "teachers": ["teacher"], "objective": {"soft_targets": {}}}
    named["stages"]["student"] = student
    del named["goal"]["subject_to"]
    found = made(loaded(named), library)
    assert network_description(found["student"])["heads"] == ["conv1", "conv3", "conv5", "conv8"]
    before, after = (load_network(found[name]).heads.state_dict() for name in ("heads", "student"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_method_brings_them(taught, library):
    student = loaded(taught).stage_graph().student
    assert [stage.label for stage in student.parents] == ["teacher/heads"]
    assert [stage.label for stage in student.ancestors()] == ["teacher", "teacher/heads", "student"]
    found = made(loaded(taught), library)
    assert {"train_heads", "val_agreement"} <= found["student"].record.figures.keys()


def test_what_is_brought_is_what_the_entry_makes(taught):
    brought = loaded(taught).stage_graph().student.parents[0]
    student = taught["stages"].pop("student")
    heads = {"do": "heads", "teacher": "teacher", "training": TEACHING}
    stages = {**taught["stages"], "heads": heads, "student": {**student, "teachers": ["heads"]}}
    recipe = loaded({**taught, "stages": stages}).stage_graph()
    assert recipe.student.parents[0].key == brought.key
    assert [stage.label for stage in recipe.student.ancestors()] == ["teacher", "heads", "student"]


def test_all_trials_share_them(taught):
    search = {
        "student.objective.heads.weights.conv1": {"uniform": [0, 2]},
        "student.objective.heads.temperature": "declared",
        "student.objective.heads.form": "declared",
    }
    told = {**CO_TEACH["heads"], "weights": {"conv1": 1.0}}
    experiment = loaded(taught, {"student.objective": {**CO_TEACH, "heads": told}}, search=search)
    values = list(experiment.configurations(3))
    recipes = [experiment.stage_graph(each) for each in values]
    assert len(recipes) == 3 * 3 * 2
    assert len({recipe.student.key for recipe in recipes}) == len(recipes)
    assert len({recipe.student.parents[0].key for recipe in recipes}) == 1


def test_several_teachers_get_heads_each(taught):
    objective = {**CO_TEACH, "entropy_weighted": {"teachers": 2}}
    student = loaded(taught, {"student.objective": objective}).stage_graph().student
    assert [stage.label for stage in student.parents] == ["teacher/heads", "teacher/2/heads"]


def test_an_entry_of_heads_is_made_again_with_its_teacher(named):
    objective = {**CO_TEACH, "entropy_weighted": {"teachers": 2}}
    student = loaded(named, {"student.objective": objective}).stage_graph().student
    assert [stage.label for stage in student.parents] == ["heads", "heads/2"]
    assert [stage.parents[0].label for stage in student.parents] == ["teacher", "teacher/2"]


def test_links_of_a_chain_learn_from_heads_as_well(tiny):
    tiny["stages"]["assistants"]["objective"] = CO_TEACH
    tiny["stages"]["student"]["objective"] = CO_TEACH
    del tiny["search"]
    labels = [stage.label for stage in loaded(tiny).stage_graph().student.ancestors()]
    assert labels == [
        "teacher",
        "teacher/heads",
        "assistants/cnn6",
        "assistants/cnn6/heads",
        "student",
    ]


def test_the_plan_knows_them(taught):
    stages = {stage.label: stage for stage in plan_search(loaded(taught), slots=1).stages}
    assert list(stages) == ["teacher", "teacher/heads"]
    assert stages["teacher/heads"].seconds > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.objective.heads.weights": {"conv2": 1.0}}, "weights: unknown head 'conv2'"),
        (
            {"student.objective.heads.at": ["conv99"]},
            "at: unknown block with a feature map 'conv99'",
        ),
        ({"student.objective.heads.training.ema": 0.9}, "training: each head keeps its own best"),
    ],
)
def test_mistakes_are_told_before_anything_runs(taught, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        loaded(taught, changes)
    assert any("student.objective.heads" in str(problem) for problem in caught.value.problems)


def test_mistakes_of_the_entry_are_told_at_the_entry(named):
    with pytest.raises(ConfigError, match=r"heads.at: unknown block with a feature map 'last'"):
        loaded(named, {"heads.at": ["last"]})


def test_heads_want_labels(named):
    with pytest.raises(ConfigError, match=r"heads.teacher: heads need labels"):
        loaded(named, {"heads.data": {"augment": {"noise": True}}})
