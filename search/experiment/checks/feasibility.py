"""Limits on costs that no network of a search can keep: found before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import STATIC
from stillhouse.search.experiment.setting_paths import parts
from stillhouse.spaces.config.domains import LogUniform, Uniform
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError, Problem

_MOST = 4096
"""Configurations that are looked at; in a larger space nothing is said."""

Costs = Mapping[str, float]


def out_of_reach(experiment: Experiment) -> Iterator[Problem]:
    """The limits on costs that not even the cheapest (or the dearest) configuration keeps."""
    limits = {f: limit for f, limit in experiment.limits.items() if f in STATIC}
    costs = _costs(experiment) if limits else []
    if not costs:
        return
    alone = {f: limit for f, limit in limits.items() if _beyond(f, limit, costs)}
    together = _exact(experiment) and not any(_kept(limits, each) for each in costs)
    for figure, limit in (alone or (limits if together else {})).items():
        values = [each[figure] for each in costs]
        yield Problem(
            f"goal.subject_to.{experiment.final}.{figure}",
            f"no network of this search keeps it ({limit}): they have "
            f"{min(values):,.0f} to {max(values):,.0f}",
        )


def _beyond(figure: str, limit: Limit, costs: Sequence[Costs]) -> bool:
    """Whether all costs lie on one side of the limit; between the ends of a range lies the rest."""
    values = [each[figure] for each in costs]
    above = limit.max is not None and min(values) > limit.max
    return above or (limit.min is not None and max(values) < limit.min)


def _kept(limits: Mapping[str, Limit], costs: Costs) -> bool:
    return all(limit.excess(costs[figure]) <= 0 for figure, limit in limits.items())


def _costs(experiment: Experiment) -> list[Costs]:
    """The costs of every student there can be; none where there are too many to look at."""
    moving = {p: experiment.search[p] for p in experiment.search if _sizes(p, experiment)}
    narrowed = replace(experiment, search=moving)
    values = list(itertools.islice(narrowed.configurations(2), _MOST + 1))
    if len(values) > _MOST:
        return []
    found: list[Costs] = []
    for each in values:
        try:
            student = experiment.recipe(each).student
            costs = student.work.costs(student.data)
        except ConfigError:
            continue  # the search refuses it too
        if not costs:
            return []  # what an assembly costs is known when it is made
        found.append(costs)
    return found


def _exact(experiment: Experiment) -> bool:
    moving = [d for p, d in experiment.search.items() if _sizes(p, experiment)]
    return not any(isinstance(domain, Uniform | LogUniform) for domain in moving)


def _sizes(path: str, experiment: Experiment) -> bool:
    return parts(path)[:2] == (experiment.final, "network") or parts(path)[0] == "data"
