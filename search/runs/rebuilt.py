"""What ``outcome.json`` said, found again in the study and in the library.

The file is written at the end of a search. Where a full disk or a loss of power has damaged it,
the configurations that were repeated follow from the trials, and their records are in the library.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stillhouse.search.artifacts.store import Library
from stillhouse.search.evaluation.baselines import add_baselines
from stillhouse.search.evaluation.factorial import factorial_cells
from stillhouse.search.evaluation.finalists import Finalist, select_finalists
from stillhouse.search.evaluation.seed_variance import variance_stages
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import Outcome, TrialResult, to_plain, winners_by_group
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.results.statistics import ranking

log = logging.getLogger(__name__)

OUTCOME_FILE = "outcome.json"


def reconstruct_outcome(
    experiment: Experiment,
    folder: RunFolder,
    library: Library,
    trials: Sequence[TrialResult],
    importances: Mapping[str, float],
) -> dict[str, Any]:
    """What the damaged file of a run said, in its own form."""
    log.warning(
        "%s is damaged, as by a full disk; its repetitions over seeds come from the library. Which "
        "stages were made and which reused, and accuracies on the test split, are lost",
        folder.path / OUTCOME_FILE,
    )
    outcome = Outcome(
        name=folder.name,
        goals=experiment.goals,
        limits=experiment.limits,
        trials=tuple(trials),
        seed_runs=(),
        records={},
        labels={},
        made_keys=frozenset(),
        reused_keys=frozenset(),
        importances=importances,
        seconds=folder.seconds_so_far(),
    )
    return to_plain(_with_repeats(experiment, outcome, library))


def _with_repeats(experiment: Experiment, outcome: Outcome, library: Library) -> Outcome:
    if experiment.factorial:
        finalists = factorial_cells(experiment)
        variance_records = {
            role: library.record(s.key) for role, s in variance_stages(finalists, library).items()
        }
        variances_by_role = {
            role: r.figures["variance"] for role, r in variance_records.items() if r
        }
        outcome = replace(outcome, variances=variances_by_role)
    else:
        finalists = select_finalists(experiment, ranking(outcome))
    with_runs = _with_seed_runs(outcome, finalists, library)
    if experiment.run.baselines and not experiment.factorial:
        finalists = add_baselines(
            experiment, finalists, winners_by_group(with_runs).values(), library
        )
        with_runs = _with_seed_runs(outcome, finalists, library)
    graphs = [graph for finalist in finalists for graph in finalist.graphs.values()]
    keys = {stage.key for graph in graphs for stage in graph.student.ancestors()}
    records = {key: library.record(key) for key in keys}
    return replace(with_runs, records={key: r for key, r in records.items() if r})


def _with_seed_runs(outcome: Outcome, finalists: Sequence[Finalist], library: Library) -> Outcome:
    repeats = (finalist.seed_runs(library) for finalist in finalists)
    return replace(outcome, seed_runs=tuple(r for r in repeats if r.records))
