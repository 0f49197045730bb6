"""Generations: equals in a chain, each a stage of its own."""

import pytest

from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.setting_paths import enumerate_suggestions
from stillhouse.spaces.config.problems import ConfigError

FAST = {"epochs": 1, "batch_size": 32, "lr": 0.05}
BORN_AGAIN = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}}


@pytest.fixture
def equals(tiny):
    """Three generations without a teacher before them."""
    tiny["stages"] = {
        "generations": {
            "do": "generations",
            "network": "cnn2",
            "count": 3,
            "objective": BORN_AGAIN,
            "training": FAST,
        }
    }
    tiny["goal"] = {"maximize": "generations.val_accuracy"}
    del tiny["search"]
    return tiny


def loaded(told, changes=None, **top):
    return load_experiment({**told, **top}, changes)


def test_each_is_taught_by_the_one_before_it(equals):
    last = loaded(equals).stage_graph().student
    stages = list(last.ancestors())
    assert [stage.label for stage in stages] == [f"generations/{n}" for n in (1, 2, 3)]
    assert [len(stage.parents) for stage in stages] == [0, 1, 1]
    assert len({stage.operation.network for stage in stages}) == 1
    assert len({stage.operation.seed for stage in stages}) == 3
    assert stages[2].parents == (stages[1],)


def test_the_first_learns_from_labels_alone(equals):
    first, second, _ = loaded(equals).stage_graph().student.ancestors()
    assert first.operation.objective.plain().keys() == {"cross_entropy"}
    assert first.operation.objective.terms["cross_entropy"].weight == 1.0
    assert second.operation.objective.plain().keys() == {"cross_entropy", "soft_targets"}


def test_a_teacher_teaches_the_first(equals):
    teacher = {"network": "cnn4", "objective": {"cross_entropy": {}}, "training": FAST}
    generations = {**equals["stages"]["generations"], "teacher": "teacher"}
    stages = {"teacher": teacher, "generations": generations}
    lineage = list(loaded({**equals, "stages": stages}).stage_graph().student.ancestors())
    assert lineage[0].label == "teacher"
    assert lineage[1].parents == (lineage[0],)
    assert "soft_targets" in lineage[1].operation.objective.plain()


def test_one_more_leaves_those_there_untouched(equals):
    two, three = (
        loaded(equals, {"generations.count": n}).stage_graph().keys_by_label for n in (2, 3)
    )
    assert two.items() < three.items()


def test_their_number_is_searched(equals):
    search = {"generations.count": "declared"}
    experiment = loaded(equals, search=search)
    drawn = []
    list(enumerate_suggestions(lambda chooser: drawn.append(experiment.suggest(chooser)), 5))
    assert [value["generations.count"] for value in drawn] == [1, 2, 3, 4, 5]


def test_an_ensemble_of_them_teaches(equals):
    student = {
        "network": {"cnn2": {"width": 0.25}},
        "teachers": ["generations"],
        "objective": BORN_AGAIN,
        "training": FAST,
    }
    stages = {**equals["stages"], "student": student}
    told = {**equals, "stages": stages, "goal": {"maximize": "student.val_accuracy"}}
    heard = [stage.label for stage in loaded(told).stage_graph().student.parents]
    assert heard == ["generations/3"]
    together = loaded(told, {"generations.ensemble": True}).stage_graph().student.parents
    assert [stage.label for stage in together] == [f"generations/{n}" for n in (1, 2, 3)]


def test_sequential_feed_translates_anew_each_time(equals):
    """Each has a factor translator of its own, and is told to want as many teachers as it has."""
    feed = {"cross_entropy": {}, "factors": {"weight": 0.25}}
    stages = list(loaded(equals, {"generations.objective": feed}).stage_graph().student.ancestors())
    assert [len(stage.parents) for stage in stages] == [0, 1, 1]


def test_they_are_made(equals, library):
    recipe = loaded(equals).stage_graph()
    list(build_stages([recipe.student], library))
    figures = [library.record(stage.key).figures for stage in recipe.student.ancestors()]
    assert "val_agreement" not in figures[0]
    assert all("val_agreement" in each for each in figures[1:])
    assert len({each["parameters"] for each in figures}) == 1


def test_a_repetition_makes_all_of_them_anew(equals):
    keys = [loaded(equals).stage_graph(seed_offset=n).keys_by_label.values() for n in (0, 1)]
    assert not set(keys[0]) & set(keys[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "generations.count"),
        ({"objective": {"cross_entropy": {}}}, "no method of the objective uses"),
        ({"teacher": "nobody"}, "unknown stage 'nobody'"),
    ],
)
def test_what_does_not_fit_is_said(equals, changes, message):
    with pytest.raises(ConfigError, match=message):
        loaded(equals, {f"generations.{field}": value for field, value in changes.items()})
