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
from stillhouse.search.evaluation.baselines import with_baselines
from stillhouse.search.evaluation.factorial import cells
from stillhouse.search.evaluation.finalists import Contender, contenders
from stillhouse.search.evaluation.seed_variance import variances
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import Outcome, Trial, to_plain, winners
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.results.statistics import ranking

log = logging.getLogger(__name__)

FILE = "outcome.json"


def rebuilt_outcome(
    experiment: Experiment,
    folder: RunFolder,
    library: Library,
    trials: Sequence[Trial],
    importances: Mapping[str, float],
) -> dict[str, Any]:
    """What the damaged file of a run said, in its own form."""
    log.warning(
        "%s is damaged, as by a full disk; its repetitions over seeds come from the library. Which "
        "stages were made and which reused, and accuracies on the test split, are lost",
        folder.path / FILE,
    )
    known = Outcome(
        name=folder.name,
        goals=experiment.goals,
        limits=experiment.limits,
        trials=tuple(trials),
        repeats=(),
        stages={},
        labels={},
        made=frozenset(),
        reused=frozenset(),
        importances=importances,
        seconds=folder.seconds_so_far(),
    )
    return to_plain(_with_repeats(experiment, known, library))


def _with_repeats(experiment: Experiment, known: Outcome, library: Library) -> Outcome:
    if experiment.factorial:
        settled = cells(experiment)
        measured = {role: library.record(s.key) for role, s in variances(settled, library).items()}
        figures = {role: r.figures["variance"] for role, r in measured.items() if r}
        known = replace(known, variances=figures)
    else:
        settled = contenders(experiment, ranking(known))
    found = _repeated(known, settled, library)
    if experiment.run.baselines and not experiment.factorial:
        settled = with_baselines(experiment, settled, winners(found).values(), library)
        found = _repeated(known, settled, library)
    recipes = [recipe for contender in settled for recipe in contender.recipes.values()]
    keys = {stage.key for recipe in recipes for stage in recipe.student.lineage()}
    records = {key: library.record(key) for key in keys}
    return replace(found, stages={key: r for key, r in records.items() if r})


def _repeated(known: Outcome, settled: Sequence[Contender], library: Library) -> Outcome:
    repeats = (contender.repeated(library) for contender in settled)
    return replace(known, repeats=tuple(r for r in repeats if r.records))
