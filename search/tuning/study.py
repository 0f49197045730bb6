"""The search's memory and mind: an Optuna study that is told the truth.

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

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.initial_points import starts
from stillhouse.search.experiment.schema import STATIC
from stillhouse.search.experiment.setting_paths import leaves
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.results.outcome import Trial
from stillhouse.search.results.screening import Screened
from stillhouse.search.tuning.journal import LAST_OF_TRIAL
from stillhouse.search.tuning.storage import close_storage, open_storage
from stillhouse.search.tuning.study_opening import open_study
from stillhouse.search.tuning.study_reading import importances_of, trial_of, trials_of
from stillhouse.spaces.config.problems import ConfigError

optuna.logging.set_verbosity(optuna.logging.WARNING)

MOST_REFUSALS = 1000
"""Proposals over budget in a row after which the search ends."""
PATIENCE = {"gp": 1}
"""Refusals in a row after which a sampler's next proposals are drawn at random, if not 10: a
Gaussian process learns from values only, and proposes again what was refused."""

_LAID_OUT = {"values", "refused"}


@dataclass(frozen=True)
class Proposal:
    """A configuration to try: ``number`` is its name for good, also after a resume.

    ``screen`` is what the screen said of it, where it has.
    """

    number: int
    values: Mapping[str, Any]
    recipe: Recipe
    costs: Mapping[str, float]
    screen: Screened | None = None


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
        Lost: it stays away while it is used, or the journal cannot be written; so does every
            method.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self._experiment = experiment
        self._storage = open_storage(experiment.study, folder)
        self._study = open_study(experiment, self._storage, folder)
        # After a resume the random numbers go on; the same seed would repeat the first trials.
        salt = len(self._study.get_trials(deepcopy=False))
        self._sampler = _sampler(experiment, salt)
        self._dice = optuna.samplers.RandomSampler(seed=_seed(experiment, salt))
        if not salt and experiment.run.start != "sampler":
            for answers in starts(experiment).values():
                self._study.enqueue_trial(answers)
        self._open: dict[int, optuna.Trial] = {}
        self._left_over = self._interrupted()
        self._leaves: Iterator[dict[str, Any]] | None = None
        if experiment.run.sampler == "grid":
            self._leaves = leaves(experiment.draw, experiment.run.grid_points)
            for trial in self._study.get_trials(deepcopy=False):
                if trial.state == TrialState.WAITING or _LAID_OUT & trial.user_attrs.keys():
                    next(self._leaves, None)

    def ask(self) -> Proposal | None:
        """The next configuration within all limits that are known beforehand.

        What lies over budget is refused here, before any training, and Optuna is told so. None:
        nothing is left to try.
        """
        if self._left_over:
            return self._take_up(self._left_over.pop(0))
        for refused in itertools.count() if self._leaves is not None else range(MOST_REFUSALS):
            if not self._next_leaf():
                return None
            patience = PATIENCE.get(self._experiment.run.sampler, 10)
            self._study.sampler = self._sampler if refused < patience else self._dice
            trial = self._ask()
            proposal = self._proposal(trial)
            if proposal is not None:
                self._open[trial.number] = trial
                return proposal
        return None

    def tell(self, number: int, figures: Mapping[str, float], reused: bool = False) -> Trial:
        """A trial ran to its end with ``figures``; the goal's must be among them.

        ``reused`` notes that its student was in the library already. A goal, or a figure under a
        limit, that is missing or not a number makes it a failure.
        """
        trial = self._open[number]
        known = trial.user_attrs.get(LAST_OF_TRIAL, STATIC)
        measured = {f: limit for f, limit in self._experiment.limits.items() if f not in known}
        goals = [goal.figure for goal in self._experiment.goals]
        for figure in (*goals, *measured):
            if not math.isfinite(figures.get(figure, math.nan)):
                found = figures.get(figure, "none")
                return self.fail(number, f"{figure} is not a finite number, found {found}")
        self._note(trial, {"figures": dict(figures), "reused": reused})
        for figure, limit in measured.items():
            trial.set_constraint(figure, limit.excess(figures[figure]))
        return self._close(number, values=[figures[figure] for figure in goals])

    def note_screen(self, number: int, screened: Screened) -> None:
        """What the screen said of an open trial, for the table and for a resume."""
        self._note(self._open[number], {"screen": screened.plain()})

    def prune(self, number: int, figures: Mapping[str, float], reason: str) -> Trial:
        """A scheduler stopped the trial early, or the screen left it out; its last figures are
        kept, but teach nothing."""
        self._note(self._open[number], {"figures": dict(figures), "reason": reason})
        return self._close(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> Trial:
        """The trial raised, ran out of memory or diverged."""
        self._note(self._open[number], {"reason": reason})
        return self._close(number, state=TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """Every trial that was handed out, by number; refused ones are left out."""
        return trials_of(self._study)

    def importances(self) -> dict[str, float]:
        """Each searched value's share in the first goal (PED-ANOVA); empty if it can't be told."""
        return importances_of(self._study)

    def close(self) -> None:
        """Let go of a database."""
        close_storage(self._storage)

    # Asking

    def _next_leaf(self) -> bool:
        """In a grid: have the next leaf asked for. Returns whether there is anything to ask for."""
        if self._leaves is None:
            return True
        if self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return True  # stopped before it was asked for
        leaf = next(self._leaves, None)
        if leaf is not None:
            self._study.enqueue_trial(leaf)
        return leaf is not None

    def _ask(self) -> optuna.Trial:
        with warnings.catch_warnings():
            # TPE tells of every value it draws by itself where a chain made a knob conditional.
            warnings.simplefilter("ignore")
            return self._study.ask()

    def _proposal(self, trial: optuna.Trial) -> Proposal | None:
        """What the trial stands for; none if it lies over budget or cannot be laid out."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = self._experiment.draw(_Asked(trial))
            recipe = self._experiment.recipe(values)
        except ConfigError as error:
            self._refuse(trial, {"refused": str(error)})
            return None
        costs = recipe.student.work.costs(recipe.student.data)
        over = False
        for figure, limit in self._experiment.limits.items():
            if figure in costs:
                trial.set_constraint(figure, limit.excess(costs[figure]))
                over |= limit.excess(costs[figure]) > 0
        if over:
            self._refuse(trial, {"refused": f"over budget: {costs}"})
            return None
        known = {LAST_OF_TRIAL: [figure for figure in STATIC if figure in costs]}
        self._note(trial, {"values": _plain(values), "keys": recipe.keys, **known})
        return Proposal(trial.number, values, recipe, costs)

    def _refuse(self, trial: optuna.Trial, why: Mapping[str, Any]) -> None:
        self._note(trial, why)
        # PRUNED, not FAIL: samplers that know constraints learn from it where not to look.
        self._study.tell(trial, state=TrialState.PRUNED)

    # Taking up what a stop left over

    def _interrupted(self) -> list[FrozenTrial]:
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            if "values" not in trial.user_attrs:  # stopped between asking and laying out
                self._study.tell(trial.number, state=TrialState.FAIL)
        return [trial for trial in running if "values" in trial.user_attrs]

    def _take_up(self, frozen: FrozenTrial) -> Proposal:
        self._open[frozen.number] = optuna.Trial(self._study, frozen._trial_id)
        values = frozen.user_attrs["values"]
        recipe = self._experiment.recipe(values)
        costs = recipe.student.work.costs(recipe.student.data)
        screen = Screened.read(frozen.user_attrs.get("screen"))
        return Proposal(frozen.number, values, recipe, costs, screen)

    # Reading and writing

    def _note(self, trial: optuna.Trial, facts: Mapping[str, Any]) -> None:
        for name, value in facts.items():
            trial.set_user_attr(name, value)

    def _close(self, number: int, **told: Any) -> Trial:
        """Tell Optuna how a trial ended. Not its whole list is asked for what came of it: that
        would take longer with every trial."""
        trial = self._open.pop(number)
        self._study.tell(trial, **told)
        return trial_of(self._storage.get_trial(trial._trial_id))


class _Asked:
    """A chooser that passes each question on to an Optuna trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def uniform(self, name: str, low: float, high: float, log: bool) -> float:
        return self._trial.suggest_float(name, low, high, log=log)

    def integer(self, name: str, low: int, high: int, step: int) -> int:
        return self._trial.suggest_int(name, low, high, step=step)

    def choice(self, name: str, count: int, labels: Sequence[str]) -> int:
        return list(labels).index(self._trial.suggest_categorical(name, list(labels)))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: list(v) if isinstance(v, tuple) else v for path, v in values.items()}


def _seed(experiment: Experiment, salt: int) -> int:
    """The seed of a sampler after ``salt`` trials. NumPy takes 32 bits, and ``run.seed`` may be a
    time stamp, so that the sum is taken modulo 2**32."""
    return (experiment.run.seed + salt) % 2**32


def _sampler(experiment: Experiment, salt: int) -> optuna.samplers.BaseSampler:
    run, seed = experiment.run, _seed(experiment, salt)
    startup = max(4, min(10, run.trials // 3))
    match run.sampler:
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                # Grouped: a chain's length decides which knobs exist, and each group of trials
                # that share their knobs is modelled together.
                return optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, group=True, n_startup_trials=startup
                )
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, run.trials // 4))
        case "gp":
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=startup, warn_independent_sampling=False
            )
    return optuna.samplers.RandomSampler(seed=seed)
