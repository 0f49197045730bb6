"""The maximum number of epochs of a student in a search."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import split_path
from stillhouse.spaces.config.domains import Choice, Domain, Integers, LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError

_FIELDS_WITHOUT_EPOCHS = {
    "data",
    "network",
    "sees",
    "seed",
    "subclasses",
    "teacher",
    "teachers",
    "weights",
}
"""Fields of an entry that do not affect its number of epochs."""
_MAX_CONFIGURATIONS = 512
"""Maximum number of expanded configurations; beyond it, only searched ``epochs`` are read."""


def most_epochs(experiment: Experiment) -> int:
    """The maximum number of epochs over all configurations of the search.

    Only values that can affect it are tried: those of the final entry without network, data,
    teachers, settings of the objective, and settings of the training except ``epochs``. With more
    than 512 such configurations the result may be too large, but never too small.
    """
    deciding_space = {
        path: _range_ends(domain)
        for path, domain in experiment.search.items()
        if _may_decide(path, domain, experiment.final_name)
    }
    narrowed = replace(experiment, search=deciding_space)
    configurations = list(itertools.islice(narrowed.configurations(2), _MAX_CONFIGURATIONS + 1))
    epochs = [*_epochs_of(experiment, configurations)] or [
        experiment.stage_graph().student.operation.epochs
    ]
    return max(
        epochs
        if len(configurations) <= _MAX_CONFIGURATIONS
        else [*epochs, *_epochs_in_space(deciding_space)]
    )


def _epochs_of(
    experiment: Experiment, configurations: Iterable[Mapping[str, Any]]
) -> Iterator[int]:
    for values in configurations:
        with contextlib.suppress(ConfigError):  # the search skips it, too
            yield experiment.stage_graph(values).student.operation.epochs


def _may_decide(path: str, domain: Domain, final: str) -> bool:
    name, *steps = split_path(path)
    if name != final or isinstance(domain, Uniform | LogUniform | Composition):
        return False
    if "training" in steps[:-1]:
        return steps[-1] == "epochs"
    return not _FIELDS_WITHOUT_EPOCHS & set(steps) and "objective" not in steps[:-1]


def _range_ends(domain: Domain) -> Domain:
    """The domain reduced to the ends of a range."""
    match domain:
        case Integers(low, high, step):
            ends = (low, range(low, high + 1, step)[-1])
            return Choice(tuple(dict.fromkeys(ends)))
    return domain


def _epochs_in_space(search: Mapping[str, Domain]) -> Iterator[int]:
    """Every number of epochs among searched values, at any depth."""
    for path, domain in search.items():
        for value in domain.grid(2):
            yield from _epochs_in({split_path(path)[-1]: value})


def _epochs_in(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "epochs" and isinstance(inner, int):
                yield inner
            yield from _epochs_in(inner)
