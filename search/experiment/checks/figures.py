"""What must hold of the figures that a goal or a limit names."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from stillhouse.methods.core.data.facts import facts
from stillhouse.search.experiment.checks.values import extremes
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import MEASURED, STATIC, GoalSettings
from stillhouse.search.experiment.setting_paths import without_star
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.experiment.variants import check_factorial, variants
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown


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
    """Figures that are asked for, and that no student of the search will have."""
    wanted = dict.fromkeys((*(goal.figure for goal in experiment.goals), *experiment.limits))
    known = [figure for figure in wanted if figure in STATIC + MEASURED]
    missing = set(known) - _usable(recipe.student)
    if missing:
        missing -= _searched_figures(experiment)
    told = {problem: None for figure in sorted(missing) for problem in _why(figure, recipe.student)}
    yield from told
    if not missing and experiment.factorial and not any(check_factorial(experiment)):
        yield from _check_cells(experiment)


def _usable(student: Stage) -> set[str]:
    """Figures of a student that a goal can name: a latency is measured beside its record."""
    found = {*STATIC, *MEASURED} & student.figures
    return found | ({"latency_ms"} if student.work.makes_network else set())


def _searched_figures(experiment: Experiment) -> set[str]:
    """Figures that some value of a single searched path brings."""
    found: set[str] = set()
    for path, domain in experiment.search.items():
        common = without_star(path)
        for value in extremes(domain):
            with contextlib.suppress(ConfigError):
                found |= _usable(experiment.recipe({common: value}).student)
    return found


def _why(figure: str, student: Stage) -> Iterator[Problem]:
    """Why a student has no such figure, and what helps."""
    held_out = facts(student.data).sizes["validation"]
    before = figure.endswith(("before", "forgetting"))
    if "val_" in figure and not held_out:
        yield Problem(
            "data.validation", f"holds nothing out, and {figure} is measured there; set 0.1"
        )
    elif figure == "val_agreement" and student.work.makes_network:
        yield Problem("goal", "val_agreement compares with a teacher, and the student has none")
    elif "subclass" in figure and student.subclasses == 1:
        message = f"{figure} needs a network that splits classes; set subclasses beside it"
        yield Problem("goal", message)
    elif figure.endswith(("recovery", "majority")) and student.data.merge is None:
        yield Problem("goal", f"{figure} asks for hidden classes, and data.merge hides none")
    elif figure == "val_task_accuracy" and student.data.classes is None:
        yield Problem("goal", f"{figure} is that among some classes, and data.classes leaves all")
    elif before and not (isinstance(student.work, TrainNetwork) and student.work.before):
        yield Problem("goal", f"{figure} asks for start: <an entry> that learnt from other data")
    else:
        there = ", ".join(sorted(_usable(student))) or "none that a goal can name"
        message = f"a stage of kind {student.work.kind!r} has no {figure}; it has {there}"
        yield Problem("goal", message)


def _check_cells(experiment: Experiment) -> Iterator[Problem]:
    """A factorial compares its first goal over all its students, with and without a teacher."""
    figure = experiment.goals[0].figure
    for role, cell in variants(experiment).items():
        if figure not in _usable(cell.recipe().student):
            message = (
                f"{figure} is no figure of the student {role!r}, and a factorial compares all "
                "its students by it; choose one that students without a teacher have as well"
            )
            yield Problem("goal", message)
            return
