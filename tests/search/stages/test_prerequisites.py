"""What methods need first becomes stages of the recipe, shared like any other."""

import copy

import pytest

from stillhouse.search.driver.plan import plan_search
from stillhouse.search.evaluation.baselines import make_baselines
from stillhouse.search.evaluation.finalists import select_finalists
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.results.outcome import TrialResult
from stillhouse.spaces.config.problems import ConfigError

FEED = {"cross_entropy": {}, "factors": {"weight": 0.25, "teachers": 3}}


@pytest.fixture
def parallel(tiny):
    """A student that learns from a teacher, and wants three of its kind."""
    del tiny["stages"]["assistants"]
    tiny["stages"]["student"] |= {"teachers": ["teacher"], "objective": copy.deepcopy(FEED)}
    del tiny["search"]
    return tiny


def loaded(told, changes=None, **top):
    return load_experiment({**told, **top}, changes)


def labels(experiment, values=None):
    return [stage.label for stage in experiment.stage_graph(values).student.parents]


# Several teachers


def test_the_teacher_is_made_again_from_other_seeds(parallel):
    student = loaded(parallel).stage_graph().student
    assert [stage.label for stage in student.parents] == ["teacher", "teacher/2", "teacher/3"]
    assert len({stage.key for stage in student.parents}) == 3
    works = [stage.operation.model_copy(update={"seed": 0}) for stage in student.parents]
    assert works[0] == works[1] == works[2]


def test_nothing_is_brought_where_there_are_enough(parallel):
    stages = parallel["stages"]
    stages["second"] = {**stages["teacher"], "seed": 1}
    stages["third"] = {**stages["teacher"], "seed": 2}
    stages["student"] = {**stages.pop("student"), "teachers": ["teacher", "second", "third"]}
    assert labels(loaded(parallel)) == ["teacher", "second", "third"]
    wanted = loaded(parallel, {"student.objective.factors.teachers": 1})
    assert labels(wanted) == ["teacher", "second", "third"]


def test_several_named_teachers_are_made_again_in_turn(parallel):
    stages = parallel["stages"]
    stages["second"] = {**stages["teacher"], "network": "cnn6"}
    stages["student"] = {**stages.pop("student"), "teachers": ["teacher", "second"]}
    found = labels(loaded(parallel, {"student.objective.factors.teachers": 5}))
    assert found == ["teacher", "second", "teacher/2", "second/2", "teacher/3"]


def test_a_method_that_counts_for_nothing_brings_nothing(parallel):
    assert labels(loaded(parallel, {"student.objective.factors.weight": 0.0})) == ["teacher"]


def test_more_teachers_are_searched_and_share_those_there_are(parallel):
    search = {"student.objective.factors.teachers": "declared"}
    experiment = loaded(parallel, search=search)
    keys = {
        n: set(experiment.stage_graph({next(iter(search)): n}).keys_by_label.values())
        for n in (1, 2, 4)
    }
    students = {n: experiment.stage_graph({next(iter(search)): n}).student.key for n in (1, 2, 4)}
    assert keys[1] - {students[1]} < keys[2] - {students[2]} < keys[4] - {students[4]}


def test_a_library_made_before_stays_valid(parallel):
    """One teacher is what there was: the field is in no key then."""
    plain = loaded(parallel, {"student.objective.factors.teachers": 1}).stage_graph().student
    del parallel["stages"]["student"]["objective"]["factors"]["teachers"]
    assert loaded(parallel).stage_graph().student.key == plain.key
    assert "teachers" not in plain.identity["work"]["taught"]["objective"]["factors"]


def test_links_of_a_chain_are_brought_what_they_need(tiny):
    tiny["stages"]["assistants"]["objective"] = copy.deepcopy(FEED)
    del tiny["search"]
    link = loaded(tiny).stage_graph().expanded_stages["assistants"].stage
    assert [p.label for p in link.parents] == ["teacher", "teacher/2", "teacher/3"]


def test_a_ready_made_teacher_cannot_be_made_again(parallel, tmp_path, published):
    published(tmp_path / "weights.safetensors", "cnn8")
    parallel["stages"]["teacher"] = {
        "network": "cnn8",
        "weights": str(tmp_path / "weights.safetensors"),
    }
    with pytest.raises(ConfigError, match="pretrained") as caught:
        loaded(parallel)
    (problem,) = caught.value.problems
    assert "student.objective.factors.teachers" in str(problem)
    assert "name as many entries" in str(problem)


def test_the_plan_names_what_is_brought(parallel):
    stages = {stage.label: stage for stage in plan_search(loaded(parallel), slots=1).stages}
    assert list(stages) == ["teacher", "teacher/2", "teacher/3"]
    assert all(stage.seconds > 0 for stage in stages.values())


def test_baselines_are_brought_the_same(parallel, library):
    parallel["run"] |= {"baselines": True, "repeats": {"top": 1, "seeds": 2}}
    experiment = loaded(parallel)
    best = select_finalists(experiment, [TrialResult(0, "finished", {}, {"student": ""})])[0]
    found = {each.role: each for each in make_baselines(experiment, best, library)}
    assert set(found) >= {"plain"}
    assert not any(recipe.student.parents for recipe in found["plain"].graphs.values())
