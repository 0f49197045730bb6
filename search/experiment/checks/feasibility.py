"""Find limits on costs that no network of a search satisfies, without training anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from stillhouse.search.core.metrics import NETWORK_METRICS
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import split_path
from stillhouse.spaces.config.domains import LogUniform, Uniform
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError, Problem

_MAX_CONFIGURATIONS = 4096
"""Maximum number of configurations; a larger space is not checked."""

CostValues = Mapping[str, float]


def unreachable_limits(experiment: Experiment) -> Iterator[Problem]:
    """Limits on costs that no configuration satisfies."""
    limits = {
        metric_name: limit
        for metric_name, limit in experiment.limits.items()
        if metric_name in NETWORK_METRICS
    }
    costs = _student_costs(experiment) if limits else []
    if not costs:
        return
    unreachable_alone = {
        metric_name: limit
        for metric_name, limit in limits.items()
        if _is_unreachable(metric_name, limit, costs)
    }
    unreachable_together = _is_exhaustive(experiment) and not any(
        _all_kept(limits, student_costs) for student_costs in costs
    )
    for unreachable_metric, limit in (
        unreachable_alone or (limits if unreachable_together else {})
    ).items():
        values = [student_costs[unreachable_metric] for student_costs in costs]
        yield Problem(
            f"goal.subject_to.{experiment.final_name}.{unreachable_metric}",
            f"no network of this search satisfies it ({limit}): they have "
            f"{min(values):,.0f} to {max(values):,.0f}",
        )


def _is_unreachable(metric: str, limit: Limit, costs: Sequence[CostValues]) -> bool:
    """Whether all costs are on one side of the limit; the ends of ranges bound the rest."""
    values = [student_costs[metric] for student_costs in costs]
    is_above = limit.max is not None and min(values) > limit.max
    return is_above or (limit.min is not None and max(values) < limit.min)


def _all_kept(limits: Mapping[str, Limit], costs: CostValues) -> bool:
    return all(limit.violation(costs[metric]) <= 0 for metric, limit in limits.items())


def _student_costs(experiment: Experiment) -> list[CostValues]:
    """The costs of every possible student; empty if there are too many."""
    size_domains = {
        p: experiment.search[p] for p in experiment.search if _decides_size(p, experiment)
    }
    size_experiment = replace(experiment, search=size_domains)
    configurations = list(
        itertools.islice(size_experiment.configurations(2), _MAX_CONFIGURATIONS + 1)
    )
    if len(configurations) > _MAX_CONFIGURATIONS:
        return []
    all_costs: list[CostValues] = []
    for values in configurations:
        try:
            student = experiment.stage_graph(values).student
            costs = student.operation.costs(student.data)
        except ConfigError:
            continue  # the search skips it, too
        if not costs:
            return []  # costs of an assembly are unknown until it is built
        all_costs.append(costs)
    return all_costs


def _is_exhaustive(experiment: Experiment) -> bool:
    domains = [d for p, d in experiment.search.items() if _decides_size(p, experiment)]
    return not any(isinstance(domain, Uniform | LogUniform) for domain in domains)


def _decides_size(path: str, experiment: Experiment) -> bool:
    return (
        split_path(path)[:2] == (experiment.final_name, "network") or split_path(path)[0] == "data"
    )
