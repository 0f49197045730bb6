"""Check that searched paths exist, perhaps only with other searched values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.search.experiment.checks.ranges import UNDECLARED_MESSAGE
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import has_path, split_path, without_wildcard
from stillhouse.search.experiment.stage_graph import parse_stages
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.spaces.config.domains import Choice, OrderedSubset
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message


def check_searched_paths(experiment: Experiment) -> Iterator[Problem]:
    for path in experiment.search:
        if not path_exists(path, experiment):
            yield Problem(f"search.{path}", _unknown_path_message(path, experiment))


def with_nearest_name(problem: Problem, experiment: Experiment) -> Problem:
    """Replace the problem of an undeclared range by the nearest name, if the field does not exist.

    A method that the objective lacks is not a wrong name and keeps its problem.
    """
    path = problem.path.removeprefix("search.")
    if problem.message != UNDECLARED_MESSAGE or path_exists(path, experiment):
        return problem
    parent_path, _, _ = path.rpartition(".")
    if split_path(parent_path)[-1] in METHODS.names() and not path_exists(parent_path, experiment):
        return problem
    return Problem(problem.path, _unknown_path_message(path, experiment))


def searched_lists(path: str, experiment: Experiment) -> tuple[Any, ...]:
    """All lists that a searched field may take as its value."""
    domain = experiment.search.get(path)
    values = domain.grid(1) if isinstance(domain, OrderedSubset | Choice) else ()
    return tuple(value for value in values if isinstance(value, list | tuple))


def path_exists(path: str, experiment: Experiment) -> bool:
    if split_path(path)[0] == "data":
        return has_path({"data": experiment.data.plain()}, path)
    if "*" in path:
        stage_config = experiment.stage_configs[split_path(path)[0]]
        is_link_wildcard = split_path(path)[1:3] == ("links", "*") and isinstance(
            stage_config, ChainEntry
        )
        if not (is_link_wildcard and split_path(path)[3:] and "*" not in without_wildcard(path)):
            return False
    return surroundings(path, experiment, existence_only=True) is not None


def surroundings(path: str, experiment: Experiment, existence_only: bool = False) -> Any:
    """Values of other searched paths with which ``path`` exists; None if it never does."""
    plain_path = without_wildcard(path)
    candidates: list[dict[str, Any]] = [{}]
    for outer_path, domain in experiment.search.items():
        if path.startswith(f"{outer_path}.") and isinstance(domain, Choice):
            candidates = [{outer_path: value} for value in domain.values]
        elif path.startswith(f"{outer_path}.") and isinstance(domain, Composition):
            candidates = [{without_wildcard(outer_path): (member,)} for member in domain.members.of]
    for values in candidates:
        try:
            stage_configs = parse_stages(experiment.with_values(values)[0])
        except ConfigError:
            continue
        if has_path(
            {name: stage_config.plain() for name, stage_config in stage_configs.items()}, plain_path
        ):
            return values
    return None if existence_only else {}


def _unknown_path_message(path: str, experiment: Experiment) -> str:
    """The message for a path that does not exist: the first unknown step and the nearest name."""
    if "*" in path:
        link_wildcard = f"{split_path(path)[0]}.links.*"
        if not isinstance(experiment.stage_configs[split_path(path)[0]], ChainEntry):
            return "does not exist: only a chain has links"
        if split_path(path)[:3] != split_path(link_wildcard) or not split_path(path)[3:]:
            return f"does not exist: * stands for a link's name, like {link_wildcard}.training.lr"
    current: Any = {
        name: stage_config.plain() for name, stage_config in experiment.stage_configs.items()
    }
    current["data"] = experiment.data.plain()
    known_steps: list[str] = []
    for step in split_path(without_wildcard(path)):
        if not isinstance(current, Mapping):
            return f"does not exist: {'.'.join(known_steps)} has no settings inside"
        if step not in current:
            message = unknown_message("field", step, map(str, current))
            return f"does not exist: {message} at {'.'.join(known_steps) or 'the top'}"
        current = current[step]
        known_steps.append(step)
    return "does not exist"
