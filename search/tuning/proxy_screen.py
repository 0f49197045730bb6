"""The proxy screen: a cheap fidelity between the study and real training.

Proposals come in rounds. Each round's students are trained on distilled data alone, which takes
seconds, and ranked by the goal's figure; the best share goes on to real training. The others are
told to the study as PRUNED: samplers take that for bad, and it costs them no more.

Nothing is remembered but in the study: what the screen said of a configuration is noted at its
trial before anything follows from it, and how well the screen ranks is computed from the trials.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Protocol

from stillhouse.search.artifacts.store import Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.monitoring.events import ScreenDisabled
from stillhouse.search.results.screening import (
    ScreenDecision,
    ScreenQuality,
    ScreenVerdict,
    screen_metric,
    screen_quality,
)
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.queue import ProposalQueue
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Proposal
from stillhouse.spaces.config.problems import ConfigError

log = logging.getLogger(__name__)

MIN_ROUND_SIZE = 4
"""Proposals of a round; with fewer there is hardly a choice."""


class StageSubmitter(Protocol):
    """Builds stages in the background;
    :class:`stillhouse.search.execution.client.SchedulerClient` is one."""

    def submit(self, stages: Iterable[Stage]) -> None: ...

    def all_built(self, stages: Iterable[Stage]) -> bool: ...

    def failure_reason(self, stages: Iterable[Stage]) -> str: ...


BuildStages = Callable[[Sequence[Stage]], Mapping[str, str]]
"""Makes stages; returns key -> reason for those that failed."""


class LocalStageSubmitter:
    """Builds stages in this process: at once, or round by round on a thread of an executor."""

    def __init__(self, build_stages: BuildStages, executor: Executor | None = None) -> None:
        self._build_stages, self._executor = build_stages, executor
        self._futures: dict[str, Future[Mapping[str, str]]] = {}

    def submit(self, stages: Iterable[Stage]) -> None:
        """Submit stages that were not submitted before."""
        new_stages = [stage for stage in stages if stage.key not in self._futures]
        future: Future[Mapping[str, str]] = Future()
        if self._executor is not None:
            future = self._executor.submit(self._build_stages, new_stages)
        else:
            future.set_result(self._build_stages(new_stages))
        self._futures |= dict.fromkeys((stage.key for stage in new_stages), future)

    def all_built(self, stages: Iterable[Stage]) -> bool:
        """Whether all stages are built."""
        return all(self._futures[s.key].done() and not self.failure_reason([s]) for s in stages)

    def failure_reason(self, stages: Iterable[Stage]) -> str:
        """Why one of the stages cannot be built; empty if none has failed."""
        for stage in stages:
            future = self._futures[stage.key]
            if future.done() and stage.key in future.result():
                return f"{stage.label}: {future.result()[stage.key]}"
        return ""


@dataclass(frozen=True)
class _Candidate:
    """A proposal of a round, and its screening student."""

    proposal: Proposal
    student: Stage

    @property
    def number(self) -> int:
        return self.proposal.number

    @property
    def stage_keys(self) -> tuple[str, ...]:
        return tuple(stage.key for stage in self.student.ancestors())


class ProxyScreen(ProposalQueue):
    """Hands out the configurations that pass.

    Args:
        experiment: with ``run.screen``.
        recorder: records the trials of the study, also those that are screened out.
        library: holds the screening students.
        submitter: builds them.
        num_trials: configurations that the search tries, those screened out included.
        max_concurrent: trials at once.
    """

    def __init__(
        self,
        experiment: Experiment,
        recorder: TrialRecorder,
        library: Library,
        submitter: StageSubmitter,
        num_trials: int,
        max_concurrent: int,
    ) -> None:
        super().__init__(recorder, num_trials)
        assert experiment.run.screen is not None
        self._experiment, self._settings = experiment, experiment.run.screen
        self._goal = experiment.goals[0]
        self._library, self._submitter = library, submitter
        self._round_size = max(MIN_ROUND_SIZE, math.ceil(max_concurrent / self._settings.keep))
        self._round: list[_Candidate] = []
        self._passed: deque[Proposal] = deque()
        quality = screen_quality(recorder.study.trials(), self._goal.figure)
        self._disabled_reason = quality.disabled_reason if quality else ""

    @property
    def is_exhausted(self) -> bool:
        """Whether there is nothing more to hand out, now or later."""
        return super().is_exhausted and not self._round and not self._passed

    def next(self) -> Proposal | None:
        """The next configuration to train; None while the screen works or after the last one."""
        if not self._round and not self._passed:
            self._start_round()
        if self._round and all(self._is_screened(candidate.student) for candidate in self._round):
            self._decide_round()
        return self._passed.popleft() if self._passed else None

    def undecided(self) -> Proposal | None:
        """One of a round whose screening is not done."""
        pending = (c.proposal for c in self._round if not self._is_screened(c.student))
        return next(pending, None)

    # A round

    def _start_round(self) -> None:
        """Ask for a round of proposals and submit their screening students."""
        self._update_quality()
        size = 1 if self._disabled_reason else self._round_size
        while len(self._round) + len(self._passed) < size and (proposal := self._ask()):
            self._add_to_round(proposal)
        if self._round:
            self._submitter.submit(
                [s for candidate in self._round for s in candidate.student.ancestors()]
            )

    def _add_to_round(self, proposal: Proposal) -> None:
        """Into the round; or past it, where it is decided already or cannot be."""
        if proposal.screen_decision:  # by a launch that was stopped
            self._apply_decision(proposal)
        elif self._disabled_reason:
            self._record_decision(proposal, ScreenDecision("off", why=self._disabled_reason))
        else:
            try:
                student = screen_student(self._experiment, proposal.values)
            except ConfigError as error:
                self._record_decision(
                    proposal, ScreenDecision("unscreened", why="; ".join(map(str, error.problems)))
                )
            else:
                self._round.append(_Candidate(proposal, student))

    def _is_screened(self, student: Stage) -> bool:
        return self._submitter.all_built([student]) or bool(
            self._submitter.failure_reason(student.ancestors())
        )

    def _decide_round(self) -> None:
        """The best share of the round goes on, and of the others a few by chance."""
        quality = self._update_quality()
        candidates, self._round = self._round, []
        if self._disabled_reason:
            for candidate in candidates:
                self._record_decision(
                    candidate.proposal, ScreenDecision("off", why=self._disabled_reason)
                )
            return
        failures = {candidate.number: self._failure_reason(candidate) for candidate in candidates}
        rankable = []
        for candidate in candidates:
            prerequisites = tuple(candidate.student.ancestors())[:-1]
            if reason := self._submitter.failure_reason(prerequisites):
                self._record_decision(candidate.proposal, ScreenDecision("unscreened", why=reason))
            else:
                rankable.append(candidate)
        ranked = sorted(rankable, key=self._rank_key)
        num_kept = math.ceil(self._settings.keep * len(ranked))
        not_kept_numbers = itertools.count(quality.num_not_kept if quality else 0)
        for rank, candidate in enumerate(ranked, 1):
            is_kept = rank <= num_kept
            verdict: ScreenVerdict = (
                "kept" if is_kept else "check" if self._is_check(next(not_kept_numbers)) else "out"
            )
            value = self._screen_value(candidate)
            figures = {} if value is None else {screen_metric(self._goal.figure): value}
            reason = failures[candidate.number]
            self._record_decision(
                candidate.proposal,
                ScreenDecision(verdict, figures, rank, len(ranked), reason, candidate.stage_keys),
            )

    def _rank_key(self, candidate: _Candidate) -> tuple[bool, float]:
        """Best first; what failed on distilled data last."""
        value = self._screen_value(candidate)
        if value is None:
            return True, 0.0
        return False, -value if self._goal.maximize else value

    def _screen_value(self, candidate: _Candidate) -> float | None:
        record = self._library.record(candidate.student.key)
        value = record.figures.get(self._goal.figure, math.nan) if record else math.nan
        return value if math.isfinite(value) else None

    def _failure_reason(self, candidate: _Candidate) -> str:
        reason = self._submitter.failure_reason([candidate.student]).removeprefix(
            f"{candidate.student.label}: "
        )
        if reason or self._screen_value(candidate) is not None:
            return reason
        return f"{self._goal.figure} is no finite number"

    def _is_check(self, number: int) -> bool:
        """Whether a configuration goes on all the same: about one by chance of each 1 / check.

        ``number`` counts the study's configurations that were not kept, from 0; the dice are those
        of a stretch of them, so a resume throws alike, and no stretch goes without.
        """
        share = self._settings.check
        if not share:
            return False
        intervals = range(max(0, int(number * share) - 1), int((number + 1) * share) + 2)
        return any(int((s + self._random_offset(s)) / share) == number for s in intervals)

    def _random_offset(self, interval: int) -> float:
        return random.Random(f"screen {self._experiment.run.seed} {interval}").random()

    # What follows

    def _record_decision(self, proposal: Proposal, decision: ScreenDecision) -> None:
        self._recorder.study.record_screen(proposal.number, decision)
        self._apply_decision(replace(proposal, screen_decision=decision))

    def _apply_decision(self, proposal: Proposal) -> None:
        assert proposal.screen_decision is not None
        if proposal.screen_decision.said == "out":
            self._recorder.record_screened_out(proposal, proposal.screen_decision)
        else:
            self._passed.append(proposal)

    def _update_quality(self) -> ScreenQuality | None:
        """How the screen does, none if it is off; switches it off if it ranks too badly."""
        quality = (
            None
            if self._disabled_reason
            else screen_quality(self._recorder.study.trials(), self._goal.figure)
        )
        if quality is None:
            return None
        self._disabled_reason = quality.distrust_reason(self._settings.trust)
        if self._disabled_reason:
            log.warning("the screen is switched off: %s", self._disabled_reason)
            self._recorder.dispatch(ScreenDisabled(self._disabled_reason))
        return quality


def proposal_queue(
    experiment: Experiment,
    recorder: TrialRecorder,
    library: Library,
    submitter: StageSubmitter,
    num_trials: int,
    max_concurrent: int = 1,
) -> ProposalQueue:
    """The proposals still to be tried, screened if the experiment asks for it."""
    if experiment.run.screen is None:
        return ProposalQueue(recorder, num_trials)
    return ProxyScreen(experiment, recorder, library, submitter, num_trials, max_concurrent)
