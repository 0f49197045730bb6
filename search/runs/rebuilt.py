"""Rebuilds a damaged ``outcome.json`` from the study and the library.

A full disk or a power loss can damage the file. The repeated configurations follow from the
trials, and their records are in the library.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stillhouse.search.artifacts.store import Library
from stillhouse.search.evaluation.final_comparison import (
    compare_finalists,
    complete_seed_runs,
    make_outcome,
)
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import TrialResult, to_plain
from stillhouse.search.results.run_folder import RunFolder

log = logging.getLogger(__name__)

OUTCOME_FILE = "outcome.json"


def reconstruct_outcome(
    experiment: Experiment,
    folder: RunFolder,
    library: Library,
    trials: Sequence[TrialResult],
    importances: Mapping[str, float],
) -> dict[str, Any]:
    """The content of a run's damaged ``outcome.json``."""
    log.warning(
        "%s is damaged, as by a full disk; its repetitions over seeds come from the library. The "
        "lists of made and reused stages, and accuracies on the test split, are lost",
        folder.path / OUTCOME_FILE,
    )
    outcome = make_outcome(
        experiment,
        folder.name,
        trials,
        {},
        seed_runs=(),
        importances=importances,
        seconds=folder.seconds_so_far(),
    )
    comparison = compare_finalists(experiment, outcome, library, lambda _stages: {})
    record_by_key = {key: library.record(key) for key in comparison.stage_keys()}
    records = {key: record for key, record in record_by_key.items() if record}
    return to_plain(
        replace(
            outcome,
            records=records,
            seed_runs=complete_seed_runs(comparison.finalists, library),
            variances=comparison.variances(records),
        )
    )
