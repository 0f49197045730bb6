"""The Optuna study of a search.

Optuna lives here, in the other ``study_*`` modules and in :mod:`stillhouse.search.tuning.journal`.
Every drawn configuration is a trial of the study, kept where it survives the process: what ran to
its end is COMPLETE, what a scheduler stopped PRUNED, what failed or diverged FAIL, and what a stop
interrupted stays RUNNING, to be taken up again under the same number.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from stillhouse.search.core.metrics import NETWORK_METRICS
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.initial_points import initial_points
from stillhouse.search.experiment.max_epochs import most_epochs
from stillhouse.search.experiment.setting_paths import enumerate_suggestions
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.results.outcome import TrialResult
from stillhouse.search.results.screening import ScreenDecision
from stillhouse.search.tuning.journal import COMMIT_ATTRIBUTE
from stillhouse.search.tuning.optuna_private import reopen_trial
from stillhouse.search.tuning.schedulers._pruner import PrunerConfig
from stillhouse.search.tuning.storage import close_storage, open_storage
from stillhouse.search.tuning.study_opening import open_study
from stillhouse.search.tuning.study_reading import importances_of, trial_of, trials_of
from stillhouse.spaces.config.problems import ConfigError

optuna.logging.set_verbosity(optuna.logging.WARNING)

MAX_REFUSALS = 1000
"""Proposals over budget in a row after which the search ends."""
_PROPOSED_ATTRIBUTES = {"values", "refused"}


@dataclass(frozen=True)
class Proposal:
    """A configuration to try; ``number`` stays the same after a resume.

    ``screen_decision`` is the decision of the proxy screen, if there was one.
    """

    number: int
    values: Mapping[str, Any]
    graph: StageGraph
    costs: Mapping[str, float]
    screen_decision: ScreenDecision | None = None


class Study:
    """The study of one search, for the one process that asks and tells.

    Whoever only looks uses :class:`stillhouse.search.tuning.study_reading.StudyReader`: a second
    ``Study`` takes the trial that this one is laying out for one that a stop interrupted.

    Args:
        experiment: what is searched; its sampler, seed, goals, limits and ``study`` are used.
        folder: the run's: ``study.journal`` lies there, or ``study.json`` with the study's name
            in the database that the experiment names.

    Raises:
        ConfigError: the database cannot be used.
        StorageUnavailable: the storage fails; every method may raise it.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self._experiment = experiment
        self._storage = open_storage(experiment.study, folder)
        self._study = open_study(experiment, self._storage, folder)
        # After a resume the random numbers go on; the same seed would repeat the first trials.
        num_earlier_trials = len(self._study.get_trials(deepcopy=False))
        seed = _sampler_seed(experiment, num_earlier_trials)
        self._sampler = experiment.run.sampler.build(seed, experiment.run.trials)
        self._random_sampler = optuna.samplers.RandomSampler(seed=seed)
        scheduler = experiment.run.scheduler
        self._prunes = isinstance(scheduler, PrunerConfig)
        if isinstance(scheduler, PrunerConfig):
            self._study.pruner = scheduler.build_pruner(most_epochs(experiment))
        if not num_earlier_trials and experiment.run.start != "sampler":
            for params in initial_points(experiment).values():
                self._study.enqueue_trial(params)
        self._open_trials: dict[int, optuna.Trial] = {}
        self._reported_epochs: dict[int, set[int]] = {}
        self._interrupted_trials = self._find_interrupted()
        self._grid: Iterator[dict[str, Any]] | None = None
        if experiment.run.sampler.is_grid:
            self._grid = enumerate_suggestions(experiment.suggest, experiment.run.grid_points)
            for trial in self._study.get_trials(deepcopy=False):
                if (
                    trial.state == TrialState.WAITING
                    or _PROPOSED_ATTRIBUTES & trial.user_attrs.keys()
                ):
                    next(self._grid, None)

    def ask(self) -> Proposal | None:
        """The next configuration within all limits that are known beforehand.

        A proposal over budget is refused here, before any training, and recorded as pruned.
        None if nothing is left to try.
        """
        if self._interrupted_trials:
            return self._resume_trial(self._interrupted_trials.pop(0))
        for num_refused in itertools.count() if self._grid is not None else range(MAX_REFUSALS):
            if not self._enqueue_grid_point():
                return None
            uses_sampler = num_refused < self._experiment.run.sampler.refusals_before_random
            self._study.sampler = self._sampler if uses_sampler else self._random_sampler
            trial = self._ask_optuna()
            proposal = self._make_proposal(trial)
            if proposal is not None:
                self._open_trials[trial.number] = trial
                return proposal
        return None

    def tell(self, number: int, figures: Mapping[str, float], reused: bool = False) -> TrialResult:
        """A trial ran to its end with ``figures``; the goal's must be among them.

        ``reused`` notes that its student was in the library already. A goal, or a figure under a
        limit, that is missing or not a number makes it a failure.
        """
        trial = self._open_trials[number]
        known_figures = trial.user_attrs.get(COMMIT_ATTRIBUTE, NETWORK_METRICS)
        measured_limits = {
            name: limit
            for name, limit in self._experiment.limits.items()
            if name not in known_figures
        }
        goals = [goal.figure for goal in self._experiment.goals]
        for figure in (*goals, *measured_limits):
            if not math.isfinite(figures.get(figure, math.nan)):
                value = figures.get(figure, "none")
                return self.fail(number, f"{figure} is not a finite number, found {value}")
        self._set_attributes(trial, {"figures": dict(figures), "reused": reused})
        for figure, limit in measured_limits.items():
            trial.set_constraint(figure, limit.violation(figures[figure]))
        return self._finish_trial(number, values=[figures[figure] for figure in goals])

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the goal's value of an open trial after an epoch.

        An epoch that was reported before, as by the worker that a trial lost, is skipped. Optuna
        has no values by epoch of a study with several goals.
        """
        epochs = self._reported_epochs.setdefault(number, set())
        if epoch in epochs or not math.isfinite(value) or len(self._experiment.goals) > 1:
            return
        self._open_trials[number].report(value, epoch)
        epochs.add(epoch)

    def should_prune(self, number: int) -> bool:
        """Whether Optuna's pruner, if the experiment names one, stops an open trial now."""
        return self._prunes and self._open_trials[number].should_prune()

    def record_screen(self, number: int, decision: ScreenDecision) -> None:
        """Record the screen's decision on an open trial, for the table and for a resume."""
        self._set_attributes(self._open_trials[number], {"screen": decision.plain()})

    def prune(self, number: int, figures: Mapping[str, float], reason: str) -> TrialResult:
        """Record that a scheduler stopped the trial, or that the screen left it out.

        Optuna takes the last value by epoch, if any, as the value of a pruned trial: TPE learns
        from it.
        """
        self._set_attributes(
            self._open_trials[number], {"figures": dict(figures), "reason": reason}
        )
        return self._finish_trial(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> TrialResult:
        """The trial raised, ran out of memory or diverged."""
        self._set_attributes(self._open_trials[number], {"reason": reason})
        return self._finish_trial(number, state=TrialState.FAIL)

    def trials(self) -> list[TrialResult]:
        """Every trial that was handed out, by number; refused ones are left out."""
        return trials_of(self._study)

    def importances(self) -> dict[str, float]:
        """Each searched value's share in the first goal (PED-ANOVA); empty if it can't be told."""
        return importances_of(self._study)

    def close(self) -> None:
        """Close the database."""
        close_storage(self._storage)

    # Asking

    def _enqueue_grid_point(self) -> bool:
        """In a grid, enqueue the next point. Returns whether there is one."""
        if self._grid is None:
            return True
        if self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return True  # stopped before it was asked for
        point = next(self._grid, None)
        if point is not None:
            self._study.enqueue_trial(point)
        return point is not None

    def _ask_optuna(self) -> optuna.Trial:
        with warnings.catch_warnings():
            # TPE warns about every value that it draws independently for a conditional setting.
            warnings.simplefilter("ignore")
            return self._study.ask()

    def _make_proposal(self, trial: optuna.Trial) -> Proposal | None:
        """The proposal of a trial; None if it is over budget or cannot be expanded."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = self._experiment.suggest(_OptunaSuggester(trial))
            graph = self._experiment.stage_graph(values)
        except ConfigError as error:
            self._refuse(trial, {"refused": str(error)})
            return None
        costs = graph.student.operation.costs(graph.student.data)
        is_over_budget = False
        for figure, limit in self._experiment.limits.items():
            if figure in costs:
                trial.set_constraint(figure, limit.violation(costs[figure]))
                is_over_budget |= limit.violation(costs[figure]) > 0
        if is_over_budget:
            self._refuse(trial, {"refused": f"over budget: {costs}"})
            return None
        known_attribute = {
            COMMIT_ATTRIBUTE: [figure for figure in NETWORK_METRICS if figure in costs]
        }
        self._set_attributes(
            trial, {"values": _to_json(values), "keys": graph.keys_by_label, **known_attribute}
        )
        return Proposal(trial.number, values, graph, costs)

    def _refuse(self, trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
        self._set_attributes(trial, attributes)
        # PRUNED, not FAIL: samplers that know constraints learn from it where not to look.
        self._study.tell(trial, state=TrialState.PRUNED)

    # Taking up what a stop left over

    def _find_interrupted(self) -> list[FrozenTrial]:
        running_trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running_trials:
            if "values" not in trial.user_attrs:  # stopped between asking and laying out
                self._study.tell(trial.number, state=TrialState.FAIL)
        return [trial for trial in running_trials if "values" in trial.user_attrs]

    def _resume_trial(self, frozen: FrozenTrial) -> Proposal:
        self._open_trials[frozen.number] = reopen_trial(self._study, frozen)
        self._reported_epochs[frozen.number] = set(frozen.intermediate_values)
        values = frozen.user_attrs["values"]
        graph = self._experiment.stage_graph(values)
        costs = graph.student.operation.costs(graph.student.data)
        decision = ScreenDecision.from_dict(frozen.user_attrs.get("screen"))
        return Proposal(frozen.number, values, graph, costs, decision)

    # Reading and writing

    def _set_attributes(self, trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            trial.set_user_attr(name, value)

    def _finish_trial(self, number: int, **outcome: Any) -> TrialResult:
        """Tell Optuna how a trial ended, without reading the list of all trials, which grows."""
        self._reported_epochs.pop(number, None)
        return trial_of(self._study.tell(self._open_trials.pop(number), **outcome))


class _OptunaSuggester:
    """Suggests values from an Optuna trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
        return self._trial.suggest_float(name, low, high, log=log)

    def suggest_int(self, name: str, low: int, high: int, step: int) -> int:
        return self._trial.suggest_int(name, low, high, step=step)

    def suggest_index(self, name: str, count: int, labels: Sequence[str]) -> int:
        return list(labels).index(self._trial.suggest_categorical(name, list(labels)))


def _to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: list(v) if isinstance(v, tuple) else v for path, v in values.items()}


def _sampler_seed(experiment: Experiment, num_earlier_trials: int) -> int:
    """The seed of a sampler after ``num_earlier_trials`` trials. NumPy takes 32 bits, and
    ``run.seed`` may be a
    time stamp, so that the sum is taken modulo 2**32."""
    return (experiment.run.seed + num_earlier_trials) % 2**32
