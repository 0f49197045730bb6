"""Check that a searched path may take every value of its domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.search.experiment.checks.data import data_problems
from stillhouse.search.experiment.checks.paths import path_exists, surroundings
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import split_path, without_wildcard
from stillhouse.spaces.config.domains import CutPoints, Domain, Integers, OrderedSubset
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_searched_values(experiment: Experiment) -> Iterator[Problem]:
    for path, domain in experiment.search.items():
        if path_exists(path, experiment):
            # A value that is valid for the whole chain is valid for each link.
            plain_path = without_wildcard(path)
            messages = list(_unfit_messages(plain_path, boundary_values(domain), experiment))
            if isinstance(domain, OrderedSubset) and not messages:
                messages = list(_unfit_messages(plain_path, [domain.of], experiment))
            yield from (Problem(f"search.{path}", message) for message in messages)


def _unfit_messages(path: str, values: Iterable[Any], experiment: Experiment) -> Iterator[str]:
    for value in values:
        for problem in _value_problems(path, value, experiment):
            yield f"the value {_format_value(value)} is not allowed: {problem}"


def boundary_values(domain: Domain) -> Sequence[Any]:
    """Values that represent the domain: all options, or the ends of a range."""
    match domain:
        case OrderedSubset(of):
            return [(member,) for member in of]
        case Composition(members):
            no_members = [()] if members.at_least == 0 else []
            return [*no_members, *((member,) for member in members.of)]
        case CutPoints(of):
            return [(cut,) for cut in of]
        case Integers(low, high, step):
            return sorted({low, range(low, high + 1, step)[-1]})
    return domain.grid(2)


def _value_problems(path: str, value: Any, experiment: Experiment) -> Iterable[Problem]:
    trial_values = surroundings(path, experiment) | {path: value}
    try:
        if split_path(path)[0] == "data":
            _, data = experiment.with_values(trial_values)
            if problems := list(data_problems(data, "data")):
                return problems
        experiment.stage_graph(trial_values)
    except ConfigError as error:
        return error.problems
    return ()


def _format_value(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)
