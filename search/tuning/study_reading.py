"""Reads a study without writing to it, also while a search runs."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import TrialResult
from stillhouse.search.results.screening import ScreenDecision
from stillhouse.search.tuning.storage import close_storage, open_for_reading
from stillhouse.search.tuning.study_opening import find_study

_STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class StudyReader:
    """The study of one search as it stands now, for those who do not search themselves.

    A study that is not there yet has no trials.

    Args:
        experiment: what is searched.
        folder: the run's.

    Raises:
        ConfigError: the database cannot be used, or the study's name in it is lost.
        StorageUnavailable: the database is unreachable during a read.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self._storage = open_for_reading(experiment.study, folder)
        self._study = find_study(experiment, self._storage, folder) if self._storage else None

    def trials(self) -> list[TrialResult]:
        """As :meth:`stillhouse.search.tuning.study.Study.trials`."""
        return trials_of(self._study) if self._study else []

    def importances(self) -> dict[str, float]:
        """As :meth:`stillhouse.search.tuning.study.Study.importances`."""
        return importances_of(self._study) if self._study else {}

    def close(self) -> None:
        """Close the database."""
        if self._storage:
            close_storage(self._storage)


def trials_of(study: optuna.Study) -> list[TrialResult]:
    """Every trial that was handed out, by number; refused ones are left out."""
    frozen_trials = study.get_trials(deepcopy=False)
    return [trial_of(trial) for trial in frozen_trials if "values" in trial.user_attrs]


def trial_of(frozen: FrozenTrial) -> TrialResult:
    """Convert an Optuna trial to a trial result."""
    attributes = frozen.user_attrs
    return TrialResult(
        number=frozen.number,
        state=_STATES.get(frozen.state, "running"),  # type: ignore[arg-type]
        values=attributes.get("values", {}),
        stage_keys=attributes.get("keys", {}),
        figures=attributes.get("figures", {}),
        reason=attributes.get("reason", ""),
        reused=attributes.get("reused", False),
        feasible=all(value <= 0 for value in frozen.constraints.values()),
        screen=ScreenDecision.from_dict(attributes.get("screen")),
    )


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Each searched value's share in the first goal (PED-ANOVA); empty if it can't be told."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    searched = {name for trial in completed for name in trial.params}
    if len(completed) < 4 or not searched:
        return {}
    if len(searched) == 1:
        return dict.fromkeys(searched, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importances = optuna.importance.get_param_importances(
                study, target=lambda trial: trial.values[0]
            )
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}
    return {name: share for name, share in importances.items() if math.isfinite(share)}
