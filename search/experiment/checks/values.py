"""Whether every value that a searched path may take is allowed there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.search.experiment.checks.data import data_problems
from stillhouse.search.experiment.checks.paths import exists, surroundings
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import parts, without_star
from stillhouse.spaces.config.domains import Chain, Cuts, Domain, Integers
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_values(experiment: Experiment) -> Iterator[Problem]:
    for path, domain in experiment.search.items():
        if exists(path, experiment):
            # What all links may be given in common, each may be given alone.
            common = without_star(path)
            found = list(_unfit(common, extremes(domain), experiment))
            if isinstance(domain, Chain) and not found:
                found = list(_unfit(common, [domain.of], experiment))
            yield from (Problem(f"search.{path}", message) for message in found)


def _unfit(path: str, values: Iterable[Any], experiment: Experiment) -> Iterator[str]:
    for value in values:
        for problem in _value_problems(path, value, experiment):
            yield f"the value {_shown(value)} is not allowed: {problem}"


def extremes(domain: Domain) -> Sequence[Any]:
    """The values whose fitness vouches for the rest: all of a few, the ends of a range."""
    match domain:
        case Chain(of):
            return [(member,) for member in of]
        case Composition(members):
            none = [()] if members.at_least == 0 else []
            return [*none, *((member,) for member in members.of)]
        case Cuts(of):
            return [(cut,) for cut in of]
        case Integers(low, high, step):
            return sorted({low, range(low, high + 1, step)[-1]})
    return domain.grid(2)


def _value_problems(path: str, value: Any, experiment: Experiment) -> Iterable[Problem]:
    values = surroundings(path, experiment) | {path: value}
    try:
        if parts(path)[0] == "data":
            _, data = experiment.with_values(values)
            if problems := list(data_problems(data, "data")):
                return problems
        experiment.recipe(values)
    except ConfigError as error:
        return error.problems
    return ()


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)
