"""What must hold of the figures that a goal or a limit names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from methods.core.data.facts import facts
from search.checks.paths import searched_lists
from search.experiment import Experiment
from search.recipe import Recipe
from search.settings import MEASURED, STATIC, GoalSettings
from search.stage import Stage
from search.train import TrainNetwork
from spaces.problem import Problem, unknown


def check_goal(experiment: Experiment) -> Iterator[Problem]:
    goal = experiment.goal
    if goal is None:
        if experiment.search:
            yield Problem("goal", "is missing: say what to maximize, like student.val_accuracy")
        return
    yield from _check_twice(goal)
    named = [("maximize", p) for p in goal.maximize] + [("minimize", p) for p in goal.minimize]
    places = [(f"goal.{where}", path) for where, path in named]
    places += [(f"goal.subject_to.{path}", path) for path in goal.subject_to]
    known = experiment.final in experiment.stages
    for place, path in places:
        stage, _, figure = path.partition(".")
        if stage not in experiment.stages:
            yield Problem(place, unknown("stage", stage, experiment.stages))
        elif known and stage != experiment.final:
            yield Problem(place, f"trials make {experiment.final!r}; only its figures can be used")
        elif figure not in STATIC + MEASURED:
            yield Problem(place, unknown("figure", figure, STATIC + MEASURED))


def _check_twice(goal: GoalSettings) -> Iterator[Problem]:
    """A figure that is named twice has one direction at most, and no more weight than once."""
    for path in sorted(set(goal.maximize) & set(goal.minimize)):
        yield Problem("goal.minimize", f"{path} is to be maximized too; name it once")
    for field, paths in (("maximize", goal.maximize), ("minimize", goal.minimize)):
        for path, count in Counter(paths).items():
            if count > 1:
                yield Problem(f"goal.{field}", f"{path} is named {count} times; name it once")


def check_figures(experiment: Experiment, recipe: Recipe) -> Iterator[Problem]:
    """Figures that the student will not have."""
    student = recipe.student
    wanted = {goal.figure for goal in experiment.goals} | set(experiment.limits)
    validated = sorted(figure for figure in wanted if "val_" in figure)
    if validated and not facts(student.data).sizes["validation"]:
        message = f"holds nothing out, and {validated[0]} is measured there; set 0.1"
        yield Problem("data.validation", message)
    teachers = student.parents or searched_lists(f"{experiment.final}.teachers", experiment)
    if "val_agreement" in wanted and not teachers:
        message = "val_agreement compares with a teacher, and the student has none"
        yield Problem("goal", message)
    yield from _check_special(wanted, student)


def _check_special(wanted: Iterable[str], student: Stage) -> Iterator[Problem]:
    """Figures that only some data and some networks have."""
    for figure in sorted(wanted):
        if "subclass" in figure and student.subclasses == 1:
            message = f"{figure} needs a network that splits classes; set subclasses beside it"
            yield Problem("goal", message)
        elif figure.endswith(("recovery", "majority")) and student.data.merge is None:
            message = f"{figure} asks for hidden classes, and data.merge hides none"
            yield Problem("goal", message)
        elif figure == "val_task_accuracy" and student.data.classes is None:
            message = f"{figure} is that among some classes, and data.classes leaves all"
            yield Problem("goal", message)
        elif figure.endswith(("before", "forgetting")) and not _learnt_before(student):
            message = f"{figure} asks for start: <an entry> that learnt from other data"
            yield Problem("goal", message)


def _learnt_before(student: Stage) -> bool:
    return isinstance(student.work, TrainNetwork) and bool(student.work.before)
