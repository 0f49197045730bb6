"""Finalists: the best trials, repeated over fresh seeds.

The seeds a configuration was chosen by are not among those it is judged by: the best of many
noisy trials is partly lucky, and its own figure says too much of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.search.artifacts.store import Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.results.outcome import (
    SeedRuns,
    TrialResult,
    device_metrics,
    with_device_metrics,
)
from stillhouse.spaces.config.domains import Choice


@dataclass(frozen=True)
class Finalist:
    """One configuration, built over several seeds.

    ``values`` are those searched; ``device_metrics`` what its trial measured of the network, which
    is the same for every seed; ``group`` and ``coincides_with`` as in :class:`SeedRuns`.
    """

    role: str
    values: Mapping[str, Any]
    graphs: Mapping[int, StageGraph]
    device_metrics: Mapping[str, float]
    group: str = ""
    coincides_with: tuple[str, ...] = ()

    @property
    def student_keys(self) -> set[str]:
        """Those of its students."""
        return {graph.student.key for graph in self.graphs.values()}

    def seed_runs(self, library: Library) -> SeedRuns:
        """Its records; seeds that failed are left out."""
        records = {s: library.record(graph.student.key) for s, graph in self.graphs.items()}
        available = {
            s: with_device_metrics(r, self.device_metrics)
            for s, r in records.items()
            if r is not None
        }
        return SeedRuns(
            self.role, tuple(available), tuple(available.values()), self.group, self.coincides_with
        )


def select_finalists(
    experiment: Experiment, ranked_trials: Sequence[TrialResult]
) -> list[Finalist]:
    """The best trials over fresh seeds; with ``repeats.top: 0`` the best one as it is.

    With ``repeats.of_each`` the best of each of its values; those that no trial has are absent.
    """
    repeats = experiment.run.repeats
    start_seed = first_seed(experiment)
    seeds = range(start_seed, start_seed + repeats.seeds) if repeats.top else range(1)
    return [
        build_finalist(
            f"trial {trial.number}", experiment, trial.values, seeds, trial.figures, group
        )
        for group, trials in _group_trials(experiment, ranked_trials).items()
        for trial in _unique_students(trials)[: max(repeats.top, 1)]
    ]


def first_seed(experiment: Experiment) -> int:
    """The first seed over which configurations are repeated.

    The trials of a search have seed 0. Where nothing is searched nothing was chosen by it, and
    the first seed is as fresh as any.
    """
    configured = experiment.run.repeats.first_seed
    return configured if configured is not None else int(bool(experiment.search))


def build_finalist(
    role: str,
    experiment: Experiment,
    values: Mapping[str, Any],
    seeds: Iterable[int],
    trial_metrics: Mapping[str, float],
    group: str = "",
) -> Finalist:
    """The student of ``values`` over ``seeds``, labelled with its role and seed."""
    graphs = {}
    for seed in seeds:
        graph = experiment.stage_graph(values, seed_offset=seed)
        suffix = ", ".join(filter(None, (role, group, f"seed {seed}")))
        label = f"{graph.student.label} ({suffix})"
        graphs[seed] = replace(graph, student=replace(graph.student, label=label))
    return Finalist(role, values, graphs, device_metrics(trial_metrics), group)


def _group_trials(
    experiment: Experiment, ranked: Sequence[TrialResult]
) -> dict[str, list[TrialResult]]:
    """Trials by their value of ``repeats.of_each``, in the order in which the search names them."""
    path = experiment.run.repeats.of_each
    if path is None or path not in experiment.search:
        return {"": list(ranked)}
    domain = experiment.search[path]
    options = domain.values if isinstance(domain, Choice) else domain.grid(1)
    by_group: dict[str, list[TrialResult]] = {_group_name(path, option): [] for option in options}
    for trial in ranked:
        if path in trial.values:
            by_group.setdefault(_group_name(path, trial.values[path]), []).append(trial)
    return {group: trials for group, trials in by_group.items() if trials}


def _group_name(path: str, value: Any) -> str:
    """``assembled.budgets.parameters 67,000``."""
    if isinstance(value, Mapping):
        return f"{path} {', '.join(f'{key} {inner}' for key, inner in value.items())}"
    if isinstance(value, tuple | list):
        return f"{path} {', '.join(map(str, value)) or 'none'}"
    number = isinstance(value, int) and not isinstance(value, bool)
    return f"{path} {value:,}" if number else f"{path} {value}"


def _unique_students(ranked: Sequence[TrialResult]) -> list[TrialResult]:
    """One trial for each student: samplers propose the same discrete choice more than once."""
    seen: dict[tuple[str, ...], TrialResult] = {}
    for trial in ranked:
        seen.setdefault(tuple(trial.stage_keys.values()), trial)
    return list(seen.values())
