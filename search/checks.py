"""What must hold before anything runs; every violation is one line that names its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from methods.core.data.facts import facts
from search.experiment import Experiment
from search.kind import Kind
from search.recipe import parse_entries
from search.settings import MEASURED, STATIC, ExperimentFile
from search.space import Space, has, parts, without_star
from spaces.domain import Chain, Choice, Domain, parse_domain
from spaces.problem import ConfigError, Problem, unknown


def read_space(told: ExperimentFile, entries: Mapping[str, Kind]) -> Space:
    """The searched paths with their domains; ``declared`` takes the one beside the field.

    Raises:
        ConfigError: a path that leads nowhere, or no such domain.
    """
    space: dict[str, Domain] = {}
    problems: list[Problem] = []
    for path, data in told.search.items():
        try:
            space[path] = _domain(path, data, entries)
        except ConfigError as error:
            problems.extend(error.under("search").problems)
    if problems:
        raise ConfigError(problems)
    return space


def _domain(path: str, data: Any, entries: Mapping[str, Kind]) -> Domain:
    name, *rest = parts(path)
    if name != "data" and name not in entries:
        raise ConfigError([Problem(path, unknown("stage", name, entries))])
    if data != "declared":
        return parse_domain(data, path)
    found = entries[name].declared(tuple(rest)) if name != "data" else None
    if found is None:
        message = "no range is declared beside this field; write one, like {uniform: [0, 1]}"
        raise ConfigError([Problem(path, message)])
    return found


def check(experiment: Experiment) -> None:
    """Everything about an experiment that can be known before it runs.

    Raises:
        ConfigError: all that is wrong, with paths into the file.
    """
    problems: list[Problem] = []
    for part in (_check_names, _check_data, _check_goal, _check_run):
        problems.extend(part(experiment))
    if not problems:
        problems.extend(_check_recipe(experiment))
    if not problems:
        problems.extend(_check_space(experiment))
    if not problems:
        problems.extend(_check_reachable(experiment))
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def _check_names(experiment: Experiment) -> Iterator[Problem]:
    for name in experiment.stages:
        if name == "data" or not name.replace("_", "").replace("-", "").isalnum():
            yield Problem(
                f"stages.{name}", "a stage's name has letters, digits, - and _, and is not 'data'"
            )


def _check_data(experiment: Experiment) -> Iterator[Problem]:
    try:
        facts(experiment.data)
    except ConfigError as error:
        yield from (p if p.path.startswith("data") else _under("data", p) for p in error.problems)


def _under(prefix: str, problem: Problem) -> Problem:
    return Problem(f"{prefix}.{problem.path}" if problem.path else prefix, problem.message)


def _check_goal(experiment: Experiment) -> Iterator[Problem]:
    goal = experiment.goal
    if goal is None:
        if experiment.search:
            yield Problem("goal", "is missing: say what to maximize, like student.val_accuracy")
        return
    named = [("maximize", p) for p in goal.maximize] + [("minimize", p) for p in goal.minimize]
    places = [(f"goal.{where}", path) for where, path in named]
    places += [(f"goal.subject_to.{path}", path) for path in goal.subject_to]
    for place, path in places:
        stage, _, figure = path.partition(".")
        if stage not in experiment.stages:
            yield Problem(place, unknown("stage", stage, experiment.stages))
        elif stage != experiment.final:
            yield Problem(place, f"trials make {experiment.final!r}; only its figures can be used")
        elif figure not in STATIC + MEASURED:
            yield Problem(place, unknown("figure", figure, STATIC + MEASURED))


def _check_run(experiment: Experiment) -> Iterator[Problem]:
    run, several = experiment.run, len(experiment.goals) > 1
    if run.scheduler.kind != "none":
        if several:
            yield Problem("run.scheduler", "needs a single goal; with several, leave it out")
        elif not experiment.goals[0].figure.startswith(("val_", "train_")):
            figure = experiment.goals[0].figure
            yield Problem("run.scheduler", f"{figure} is not reported by epoch; leave it out")


def _check_recipe(experiment: Experiment) -> Iterator[Problem]:
    try:
        recipe = experiment.recipe()
        for stage in recipe.student.lineage():
            stage.work.costs(stage.data)
            stage.work.identity()
    except ConfigError as error:
        yield from (_in_stages(p, experiment) for p in error.problems)
        return
    if experiment.search:
        needed = {name for name in experiment.stages if _leads_to(name, experiment)}
        for name in experiment.stages.keys() - needed:
            yield Problem(f"stages.{name}", f"nothing that leads to {experiment.final!r} needs it")


def _in_stages(problem: Problem, experiment: Experiment) -> Problem:
    inside = parts(problem.path)[0] in experiment.stages
    return _under("stages", problem) if inside else problem


def _leads_to(name: str, experiment: Experiment) -> bool:
    open_names, seen = [experiment.final], set()
    while open_names:
        current = open_names.pop()
        seen.add(current)
        open_names += [n for n in experiment.entries[current].needs() if n not in seen]
    return name in seen


def _check_space(experiment: Experiment) -> Iterator[Problem]:
    for path, domain in experiment.search.items():
        if not _exists(path, experiment):
            yield Problem(f"search.{path}", _nowhere(path, experiment))
            continue
        if parts(path)[0] == "data" or "*" in path:
            continue
        problems = [
            p for value in _extremes(domain) for p in _value_problems(path, value, experiment)
        ]
        yield from dict.fromkeys(problems)


def _extremes(domain: Domain) -> tuple[Any, ...]:
    """The values whose fitness vouches for the rest: all of a few, the ends of a range."""
    if isinstance(domain, Chain):
        return (*((member,) for member in domain.of), domain.of)
    return domain.grid(2)


def _value_problems(path: str, value: Any, experiment: Experiment) -> Iterator[Problem]:
    try:
        experiment.recipe(_surroundings(path, experiment) | {path: value})
    except ConfigError as error:
        for problem in error.problems:
            yield Problem(f"search.{path}", f"the value {_shown(value)} is not allowed: {problem}")


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def _exists(path: str, experiment: Experiment) -> bool:
    if parts(path)[0] == "data":
        return has({"data": experiment.data.plain()}, path)
    return _surroundings(path, experiment, probe=True) is not None


def _surroundings(path: str, experiment: Experiment, probe: bool = False) -> Any:
    """Values of other searched paths under which ``path`` exists; none if it never does."""
    plain = without_star(path)
    settings: list[dict[str, Any]] = [{}]
    for outer, domain in experiment.search.items():
        if path.startswith(f"{outer}.") and isinstance(domain, Choice):
            settings = [{outer: value} for value in domain.values]
    for values in settings:
        try:
            entries = parse_entries(experiment.with_values(values)[0])
        except ConfigError:
            continue
        if has({name: entry.plain() for name, entry in entries.items()}, plain):
            return values
    return None if probe else {}


def _nowhere(path: str, experiment: Experiment) -> str:
    """Where a path stops being known, and what could follow."""
    current: Any = {name: entry.plain() for name, entry in experiment.entries.items()}
    current["data"] = experiment.data.plain()
    walked: list[str] = []
    for step in parts(without_star(path)):
        if not isinstance(current, Mapping):
            return f"leads nowhere: {'.'.join(walked)} has no settings inside"
        if step not in current:
            message = unknown("field", step, map(str, current))
            return f"leads nowhere: {message} at {'.'.join(walked) or 'the top'}"
        current = current[step]
        walked.append(step)
    return "leads nowhere"


def _check_reachable(experiment: Experiment) -> Iterator[Problem]:
    """A limit on a cost that not even the cheapest configuration keeps."""
    moving = {p: d for p, d in experiment.search.items() if _sizes(p, experiment)}
    limits = {f: limit for f, limit in experiment.limits.items() if f in STATIC}
    if not limits:
        return
    costs = list(_reachable_costs(experiment, moving))
    if any(all(limit.excess(c[f]) <= 0 for f, limit in limits.items()) for c in costs):
        return
    for figure, limit in limits.items():
        values = [cost[figure] for cost in costs]
        yield Problem(
            f"goal.subject_to.{experiment.final}.{figure}",
            f"no network of this search keeps it ({limit}): they have "
            f"{min(values):,.0f} to {max(values):,.0f}",
        )


def _sizes(path: str, experiment: Experiment) -> bool:
    return parts(path)[:2] == (experiment.final, "network") or parts(path)[0] == "data"


def _reachable_costs(
    experiment: Experiment, moving: Mapping[str, Domain]
) -> Iterator[dict[str, float]]:
    values: list[dict[str, Any]] = [{}]
    for path, domain in moving.items():
        values = [v | {path: choice} for v in values for choice in domain.grid(2)][:4096]
    for value in values:
        try:
            student = experiment.recipe(value).student
            yield student.work.costs(student.data)
        except ConfigError:
            continue  # settings of another choice; the walk through the space skips them too
