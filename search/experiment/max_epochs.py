"""The most epochs that any student of a search can train for."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import parts
from stillhouse.spaces.config.domains import Choice, Domain, Integers, LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError

_OTHERWISE = {"data", "network", "sees", "seed", "subclasses", "teacher", "teachers", "weights"}
"""Fields of an entry that decide no number of epochs."""
_MOST = 512
"""Configurations that are laid out; of a larger space, the numbers of epochs alone are read."""


def most_epochs(experiment: Experiment) -> int:
    """The most epochs over all values that the search can draw.

    Only values that can decide it are tried: those of the final entry, less its network, its data,
    its teachers, the settings of its objective and those of its training except ``epochs``. In a
    space with more than 512 such configurations the answer may be too large, and is not too small.
    """
    deciding = {
        path: _ends(domain)
        for path, domain in experiment.search.items()
        if _may_decide(path, domain, experiment.final)
    }
    narrowed = replace(experiment, search=deciding)
    tried = list(itertools.islice(narrowed.configurations(2), _MOST + 1))
    found = [*_epochs(experiment, tried)] or [experiment.recipe().student.work.epochs]
    return max(found if len(tried) <= _MOST else [*found, *_written(deciding)])


def _epochs(experiment: Experiment, tried: Iterable[Mapping[str, Any]]) -> Iterator[int]:
    for values in tried:
        with contextlib.suppress(ConfigError):  # the search refuses it too
            yield experiment.recipe(values).student.work.epochs


def _may_decide(path: str, domain: Domain, final: str) -> bool:
    name, *steps = parts(path)
    if name != final or isinstance(domain, Uniform | LogUniform | Composition):
        return False
    if "training" in steps[:-1]:
        return steps[-1] == "epochs"
    return not _OTHERWISE & set(steps) and "objective" not in steps[:-1]


def _ends(domain: Domain) -> Domain:
    """The domain less what lies between the ends of a range."""
    match domain:
        case Integers(low, high, step):
            ends = (low, range(low, high + 1, step)[-1])
            return Choice(tuple(dict.fromkeys(ends)))
    return domain


def _written(search: Mapping[str, Domain]) -> Iterator[int]:
    """Every number of epochs among searched values, at whatever depth."""
    for path, domain in search.items():
        for value in domain.grid(2):
            yield from _epochs_in({parts(path)[-1]: value})


def _epochs_in(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "epochs" and isinstance(inner, int):
                yield inner
            yield from _epochs_in(inner)
