"""Learning without forgetting: new classes, the previous network as teacher, what is left of it."""

import copy

import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment

FAST = {"epochs": 3, "batch_size": 64, "lr": 0.05}
FIRST, SECOND = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
LIFE = {
    "name": "life",
    "data": {"source": "digits", "validation": 0.2},
    "stages": {
        "first": {
            "network": {"cnn4": {"width": 0.5}},
            "objective": {"cross_entropy": {}},
            "training": FAST,
            "data": {"classes": FIRST},
        },
        "second": {
            "start": "first",
            "teachers": ["first"],
            "objective": {"cross_entropy": {}, "previous_classes": {"classes": FIRST}},
            "training": FAST,
            "data": {"classes": SECOND},
        },
    },
    "goal": {"maximize": "second.val_task_accuracy", "subject_to": {"second.task_forgetting": 0.5}},
    "run": {"repeats": {"top": 0}, "baselines": False},
}


@pytest.fixture
def life(tmp_path):
    return {**copy.deepcopy(LIFE), "library": str(tmp_path / "library")}


def made(experiment):
    library = Library(experiment.library)
    stage = experiment.stage_graph().student
    for _ in build_stages([stage], library):
        pass
    return stage, library


def test_the_earlier_data_is_judged_by_the_network_that_went_on(life):
    stage, library = made(load_experiment(life))
    (first, _) = stage.parents
    figures = library.record(stage.key).figures
    for name in ("accuracy", "task_accuracy"):
        then, now = (
            evaluate(
                load_network(library.open_artifact(each.key)),
                open_data(first.data),
                "validation",
                device="cpu",
            )[name]
            for each in (first, stage)
        )
        told = name.replace("accuracy", "forgetting")
        assert figures[f"val_{name}_before"] == now
        assert figures[told] == pytest.approx(then - now)
        assert then == library.record(first.key).figures[f"val_{name}"]
    assert figures["forgetting"] > 0.5


def test_the_previous_network_as_teacher_keeps_more_of_the_old(life):
    """Against going on with labels alone; the seeds are one, the teacher is the difference."""
    kept, _ = made(load_experiment(life))
    alone = {"second.objective": {"cross_entropy": {}}, "second.teachers": []}
    lost, library = made(load_experiment(life, alone))
    told = [library.record(stage.key).figures for stage in (kept, lost)]
    assert told[0]["task_forgetting"] < told[1]["task_forgetting"]


def test_all_earlier_data_counts(life):
    stages = life["stages"]
    stages["first"]["data"] = {"classes": [0, 1, 2]}
    stages["second"]["data"] = {"classes": [3, 4, 5]}
    stages["third"] = {**copy.deepcopy(stages["second"]), "start": "second", "teachers": ["second"]}
    stages["third"]["data"] = {"classes": SECOND[1:]}
    del life["goal"]
    experiment = load_experiment(life)
    third = experiment.stage_graph().student
    assert [data.classes for data in third.operation.before] == [(3, 4, 5), (0, 1, 2)]
    stage, library = made(experiment)
    network = load_network(library.open_artifact(stage.key))
    each = [
        evaluate(network, open_data(data), "validation", device="cpu")["task_accuracy"]
        for data in third.operation.before
    ]
    found = library.record(stage.key).figures["val_task_accuracy_before"]
    assert found == pytest.approx(sum(each) / 2)


def test_the_same_data_is_no_earlier_data_and_no_key_changes(life):
    for name, data in (("first", {"limit": 200}), ("second", {"augment": {"flip": True}})):
        life["stages"][name]["data"] = data
    del life["goal"]
    work = load_experiment(life).stage_graph().student.operation
    assert work.before == ()
    assert "before" not in work.identity()


def test_an_architecture_alone_has_learnt_nothing(life):
    life["stages"]["second"]["anew"] = True
    del life["goal"]
    assert load_experiment(life).stage_graph().student.operation.before == ()


def test_where_the_files_lie_is_not_in_the_key(life, tmp_path):
    key = load_experiment(life).stage_graph().student.key
    work = load_experiment(life).stage_graph().student.operation
    moved = tuple(data.model_copy(update={"root": str(tmp_path)}) for data in work.before)
    assert work.model_copy(update={"before": moved}).identity() == work.identity()
    life["stages"]["first"]["data"]["classes"] = FIRST[:4]
    assert load_experiment(life).stage_graph().student.key != key


def test_data_with_other_classes_cannot_be_asked_about(life):
    life["stages"]["first"]["data"] = {"merge": [FIRST, SECOND]}
    life["stages"]["second"] |= {"objective": {"soft_targets": {}}}
    del life["goal"]
    assert load_experiment(life).stage_graph().student.operation.before == ()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
