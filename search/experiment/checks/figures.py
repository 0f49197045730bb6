"""Checks of the metrics that a goal or a limit names."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from stillhouse.methods.core.data.facts import facts
from stillhouse.search.core.metrics import GOAL_METRICS, LATENCY_METRIC, METRICS
from stillhouse.search.experiment.checks.values import boundary_values
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import GoalSettings
from stillhouse.search.experiment.setting_paths import without_wildcard
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.experiment.variants import check_factorial, factorial_variants
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message


def check_goal(experiment: Experiment) -> Iterator[Problem]:
    goal = experiment.goal
    if goal is None:
        if experiment.search:
            yield Problem("goal", "is missing: say what to maximize, like student.val_accuracy")
        return
    yield from _duplicate_goals(goal)
    metric_paths = [("maximize", p) for p in goal.maximize] + [
        ("minimize", p) for p in goal.minimize
    ]
    locations = [(f"goal.{direction}", path) for direction, path in metric_paths]
    locations += [(f"goal.subject_to.{path}", path) for path in goal.subject_to]
    has_final = experiment.final_name in experiment.stages
    for location, path in locations:
        stage, _, metric = path.partition(".")
        if stage not in experiment.stages:
            yield Problem(location, unknown_message("stage", stage, experiment.stages))
        elif has_final and stage != experiment.final_name:
            yield Problem(
                location, f"trials make {experiment.final_name!r}; only its figures can be used"
            )
        elif metric not in GOAL_METRICS:
            yield Problem(location, unknown_message("figure", metric, GOAL_METRICS))


def _duplicate_goals(goal: GoalSettings) -> Iterator[Problem]:
    """A metric may be named only once, with one direction."""
    for path in sorted(set(goal.maximize) & set(goal.minimize)):
        yield Problem("goal.minimize", f"{path} is to be maximized too; name it once")
    for field, paths in (("maximize", goal.maximize), ("minimize", goal.minimize)):
        for path, count in Counter(paths).items():
            if count > 1:
                yield Problem(f"goal.{field}", f"{path} is named {count} times; name it once")


def check_metrics(experiment: Experiment, graph: StageGraph) -> Iterator[Problem]:
    """Required metrics that no student of the search has."""
    required_metrics = dict.fromkeys(
        (*(goal.figure for goal in experiment.goals), *experiment.limits)
    )
    missing = required_metrics.keys() & set(GOAL_METRICS) - _goal_metrics(graph.student)
    if missing:
        missing -= _metrics_of_searched_values(experiment)
    distinct_problems = {
        problem: None
        for metric in sorted(missing)
        for problem in _missing_metric_problems(metric, graph.student)
    }
    yield from distinct_problems
    if not missing and experiment.factorial and not any(check_factorial(experiment)):
        yield from _check_factorial_metric(experiment)


def _goal_metrics(student: Stage) -> set[str]:
    """Metrics of a student that a goal can name; latency is measured separately."""
    names = set(GOAL_METRICS) & student.metric_names
    return names | ({LATENCY_METRIC} if student.makes_network else set())


def _metrics_of_searched_values(experiment: Experiment) -> set[str]:
    """Metrics that students with one other searched value have."""
    names: set[str] = set()
    for path, domain in experiment.search.items():
        plain_path = without_wildcard(path)
        for value in boundary_values(domain):
            with contextlib.suppress(ConfigError):
                names |= _goal_metrics(experiment.stage_graph({plain_path: value}).student)
    return names


def _missing_metric_problems(metric: str, student: Stage) -> Iterator[Problem]:
    """Why a student lacks a metric, and the remedy."""
    num_validation = facts(student.data).sizes["validation"]
    requires = METRICS[metric].requires
    if "validation" in requires and not num_validation:
        yield Problem(
            "data.validation", f"leaves no validation split, on which {metric} is measured; set 0.1"
        )
    elif "teacher" in requires and student.makes_network:
        yield Problem("goal", f"{metric} needs a teacher, and the student has none")
    elif "subclasses" in requires and student.subclasses == 1:
        message = f"{metric} needs a network that splits classes; set subclasses in its entry"
        yield Problem("goal", message)
    elif "merge" in requires and student.data.merge is None:
        yield Problem("goal", f"{metric} needs merged classes; set data.merge")
    elif "classes" in requires and student.data.classes is None:
        yield Problem("goal", f"{metric} needs a subset of the classes; set data.classes")
    elif "earlier data" in requires and not (
        isinstance(student.operation, TrainNetwork) and student.operation.before
    ):
        yield Problem("goal", f"{metric} needs start: <an entry> that was trained on other data")
    else:
        available_text = ", ".join(sorted(_goal_metrics(student))) or "none that a goal can name"
        message = (
            f"a stage of kind {student.operation.kind!r} has no {metric}; it has {available_text}"
        )
        yield Problem("goal", message)


def _check_factorial_metric(experiment: Experiment) -> Iterator[Problem]:
    """All students of a factorial, with and without a teacher, need its first goal."""
    metric = experiment.goals[0].figure
    for role, cell in factorial_variants(experiment).items():
        if metric not in _goal_metrics(cell.stage_graph().student):
            message = (
                f"the student {role!r} has no {metric}, by which the factorial compares all "
                "students; choose a figure that students without a teacher have, too"
            )
            yield Problem("goal", message)
            return
