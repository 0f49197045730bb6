"""Where searched paths lead, and under which other searched values they exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.search.experiment.checks.ranges import UNDECLARED
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import has, parts, without_star
from stillhouse.search.experiment.stage_graph import parse_entries
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.spaces.config.domains import Chain, Choice
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown


def check_paths(experiment: Experiment) -> Iterator[Problem]:
    for path in experiment.search:
        if not exists(path, experiment):
            yield Problem(f"search.{path}", _nowhere(path, experiment))


def with_nearest(problem: Problem, experiment: Experiment) -> Problem:
    """The problem of a field without a declared range; of one that is not there, the nearest name.

    A method that the objective lacks is no wrong name, and keeps its problem.
    """
    path = problem.path.removeprefix("search.")
    if problem.message != UNDECLARED or exists(path, experiment):
        return problem
    around, _, _ = path.rpartition(".")
    if parts(around)[-1] in METHODS.names() and not exists(around, experiment):
        return problem
    return Problem(problem.path, _nowhere(path, experiment))


def searched_lists(path: str, experiment: Experiment) -> tuple[Any, ...]:
    """All lists that a searched field with a list may hold."""
    domain = experiment.search.get(path)
    found = domain.grid(1) if isinstance(domain, Chain | Choice) else ()
    return tuple(value for value in found if isinstance(value, list | tuple))


def exists(path: str, experiment: Experiment) -> bool:
    if parts(path)[0] == "data":
        return has({"data": experiment.data.plain()}, path)
    if "*" in path:
        entry = experiment.entries[parts(path)[0]]
        starred = parts(path)[1:3] == ("links", "*") and isinstance(entry, ChainEntry)
        if not (starred and parts(path)[3:] and "*" not in without_star(path)):
            return False
    return surroundings(path, experiment, probe=True) is not None


def surroundings(path: str, experiment: Experiment, probe: bool = False) -> Any:
    """Values of other searched paths under which ``path`` exists; none if it never does."""
    plain = without_star(path)
    settings: list[dict[str, Any]] = [{}]
    for outer, domain in experiment.search.items():
        if path.startswith(f"{outer}.") and isinstance(domain, Choice):
            settings = [{outer: value} for value in domain.values]
        elif path.startswith(f"{outer}.") and isinstance(domain, Composition):
            settings = [{without_star(outer): (member,)} for member in domain.members.of]
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
    if "*" in path:
        starred = f"{parts(path)[0]}.links.*"
        if not isinstance(experiment.entries[parts(path)[0]], ChainEntry):
            return "leads nowhere: only a chain has links"
        if parts(path)[:3] != parts(starred) or not parts(path)[3:]:
            return f"leads nowhere: * stands for a link's name, like {starred}.training.lr"
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
