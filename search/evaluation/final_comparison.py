"""The end of a search: the finalists over their seeds, and the baselines of the best of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.evaluation.baselines import add_baselines
from stillhouse.search.evaluation.factorial import factorial_cells
from stillhouse.search.evaluation.finalists import Finalist, select_finalists
from stillhouse.search.evaluation.seed_variance import variance_stages
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import Outcome, SeedRuns, TrialResult, winners_by_group
from stillhouse.search.results.statistics import ranking
from stillhouse.search.stages.core.stage import Stage

StageBuilder = Callable[[Sequence[Stage]], Mapping[str, str]]
"""Has stages built; returns the key and the reason of each that failed."""


@dataclass(frozen=True)
class FinalComparison:
    """The finalists with their baselines, and by role the stages that measure their variance.

    ``failed_repeats`` holds the key and the reason of each student that could not be built.
    """

    finalists: tuple[Finalist, ...] = ()
    variance_stages: Mapping[str, Stage] = field(default_factory=dict)
    failed_repeats: Mapping[str, str] = field(default_factory=dict)

    @property
    def students(self) -> dict[str, Stage]:
        """Key -> student, of every configuration and seed."""
        return {student.key: student for student in _students(self.finalists)}

    def stage_keys(self) -> set[str]:
        """The keys of all students, of the stages that they rest on, and of the variances."""
        stages = [stage for s in self.students.values() for stage in s.ancestors()]
        return {stage.key for stage in (*stages, *self.variance_stages.values())}

    def variances(self, records: Mapping[str, Record]) -> dict[str, float]:
        """Role -> variance between the seeds, where ``records`` holds its stage."""
        return {
            role: records[stage.key].figures["variance"]
            for role, stage in self.variance_stages.items()
            if stage.key in records
        }


def compare_finalists(
    experiment: Experiment, outcome: Outcome, library: Library, build: StageBuilder
) -> FinalComparison:
    """Build the best configurations of an ended search over fresh seeds, then the baselines of
    the best one (of each group). ``outcome`` holds the trials."""
    if experiment.factorial:
        finalists = factorial_cells(experiment)
        failed = build(_students(finalists))
        variances = variance_stages(finalists, library)
        build(list(variances.values()))
        return FinalComparison(tuple(finalists), variances, failed)
    finalists = select_finalists(experiment, ranking(outcome))
    students = _students(finalists)
    failed = build(students)
    if experiment.run.baselines:
        with_runs = replace(outcome, seed_runs=complete_seed_runs(finalists, library))
        best = winners_by_group(with_runs).values()
        finalists = add_baselines(experiment, finalists, best, library)
        built_keys = {student.key for student in students}
        added = {s.key: s for s in _students(finalists) if s.key not in built_keys}
        build(list(added.values()))
    return FinalComparison(tuple(finalists), failed_repeats=failed)


def complete_seed_runs(finalists: Iterable[Finalist], library: Library) -> tuple[SeedRuns, ...]:
    """The records of each configuration of which the library has a student."""
    seed_runs = (finalist.seed_runs(library) for finalist in finalists)
    return tuple(runs for runs in seed_runs if runs.records)


def make_outcome(
    experiment: Experiment,
    name: str,
    trials: Sequence[TrialResult],
    records: Mapping[str, Record],
    *,
    seed_runs: tuple[SeedRuns, ...],
    importances: Mapping[str, float],
    seconds: float,
    made_keys: Iterable[str] = (),
    reused_keys: Iterable[str] = (),
    variances: Mapping[str, float] | None = None,
    test_accuracies: Mapping[str, tuple[float, ...]] | None = None,
) -> Outcome:
    """The outcome of the run ``name``, with what follows from its experiment and its records."""
    return Outcome(
        name=name,
        goals=experiment.goals,
        limits=experiment.limits,
        trials=tuple(trials),
        seed_runs=seed_runs,
        records=records,
        labels={key: record.name for key, record in records.items()},
        made_keys=frozenset(made_keys),
        reused_keys=frozenset(reused_keys),
        importances=importances,
        seconds=seconds,
        factorial=experiment.factorial.plain() if experiment.factorial else {},
        variances=variances or {},
        test_accuracies=test_accuracies or {},
    )


def _students(finalists: Iterable[Finalist]) -> list[Stage]:
    """The student of every configuration and seed."""
    return [graph.student for finalist in finalists for graph in finalist.graphs.values()]
