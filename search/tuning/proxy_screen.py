"""The screen: a first, cheap fidelity between the study and whoever trains its proposals.

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
from stillhouse.search.monitoring.events import ScreenOff
from stillhouse.search.results.screening import Judged, Said, Screened, judged, screen_figure
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.queue import Proposals
from stillhouse.search.tuning.recorder import Ledger
from stillhouse.search.tuning.study import Proposal
from stillhouse.spaces.config.problems import ConfigError

log = logging.getLogger(__name__)

FEWEST = 4
"""Proposals of a round; with fewer there is hardly a choice."""


class Bench(Protocol):
    """Where stages are made while one looks elsewhere;
    :class:`stillhouse.search.execution.client.Orders` is one."""

    def place(self, stages: Iterable[Stage]) -> None: ...

    def ready(self, stages: Iterable[Stage]) -> bool: ...

    def failure(self, stages: Iterable[Stage]) -> str: ...


Make = Callable[[Sequence[Stage]], Mapping[str, str]]
"""Makes stages; returns key -> reason for those that failed."""


class Here:
    """A bench in this process: at once, or one round after the other on an executor's thread."""

    def __init__(self, make: Make, executor: Executor | None = None) -> None:
        self._make, self._executor = make, executor
        self._making: dict[str, Future[Mapping[str, str]]] = {}

    def place(self, stages: Iterable[Stage]) -> None:
        """Have stages made that were not asked for yet."""
        wanted = [stage for stage in stages if stage.key not in self._making]
        future: Future[Mapping[str, str]] = Future()
        if self._executor is not None:
            future = self._executor.submit(self._make, wanted)
        else:
            future.set_result(self._make(wanted))
        self._making |= dict.fromkeys((stage.key for stage in wanted), future)

    def ready(self, stages: Iterable[Stage]) -> bool:
        """Whether all of them are made."""
        return all(self._making[s.key].done() and not self.failure([s]) for s in stages)

    def failure(self, stages: Iterable[Stage]) -> str:
        """Why one of them cannot be had; empty while all may be."""
        for stage in stages:
            making = self._making[stage.key]
            if making.done() and stage.key in making.result():
                return f"{stage.label}: {making.result()[stage.key]}"
        return ""


@dataclass(frozen=True)
class _Candidate:
    """A proposal of a round, and the student it is screened by."""

    proposal: Proposal
    student: Stage

    @property
    def number(self) -> int:
        return self.proposal.number

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(stage.key for stage in self.student.lineage())


class Screen(Proposals):
    """Hands out the configurations that pass.

    Args:
        experiment: with ``run.screen``.
        ledger: of the study that is asked; what is screened out is booked here.
        library: where the screen's students are.
        bench: where they are made.
        trials: how many configurations the search tries in all, those screened out included.
        concurrent: how many are trained at once; a round has enough for each of them.
    """

    def __init__(
        self,
        experiment: Experiment,
        ledger: Ledger,
        library: Library,
        bench: Bench,
        trials: int,
        concurrent: int,
    ) -> None:
        super().__init__(ledger, trials)
        assert experiment.run.screen is not None
        self._experiment, self._settings = experiment, experiment.run.screen
        self._goal = experiment.goals[0]
        self._library, self._bench = library, bench
        self._size = max(FEWEST, math.ceil(concurrent / self._settings.keep))
        self._round: list[_Candidate] = []
        self._passed: deque[Proposal] = deque()
        known = judged(ledger.study.trials(), self._goal.figure)
        self._off = known.off if known else ""

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to hand out, now or later."""
        return super().exhausted and not self._round and not self._passed

    def next(self) -> Proposal | None:
        """The next configuration to train; none: the screen is at work, or all is handed out."""
        if not self._round and not self._passed:
            self._begin()
        if self._round and all(self._settled(each.student) for each in self._round):
            self._decide()
        return self._passed.popleft() if self._passed else None

    def idle(self) -> Proposal | None:
        """One of a round whose screening is not done."""
        open_ones = (c.proposal for c in self._round if not self._settled(c.student))
        return next(open_ones, None)

    # A round

    def _begin(self) -> None:
        """Ask for a round of proposals and have their students made."""
        self._judge()
        size = 1 if self._off else self._size
        while len(self._round) + len(self._passed) < size and (proposal := self._ask()):
            self._enter(proposal)
        if self._round:
            self._bench.place([s for each in self._round for s in each.student.lineage()])

    def _enter(self, proposal: Proposal) -> None:
        """Into the round; or past it, where it is decided already or cannot be."""
        if proposal.screen:  # by a launch that was stopped
            self._follow(proposal)
        elif self._off:
            self._say(proposal, Screened("off", why=self._off))
        else:
            try:
                student = screen_student(self._experiment, proposal.values)
            except ConfigError as error:
                self._say(proposal, Screened("unscreened", why="; ".join(map(str, error.problems))))
            else:
                self._round.append(_Candidate(proposal, student))

    def _settled(self, student: Stage) -> bool:
        return self._bench.ready([student]) or bool(self._bench.failure(student.lineage()))

    def _decide(self) -> None:
        """The best share of the round goes on, and of the others a few by chance."""
        known = self._judge()
        candidates, self._round = self._round, []
        if self._off:
            for each in candidates:
                self._say(each.proposal, Screened("off", why=self._off))
            return
        failures = {each.number: self._failure(each) for each in candidates}
        able = []
        for each in candidates:
            rests_on = tuple(each.student.lineage())[:-1]
            if why := self._bench.failure(rests_on):
                self._say(each.proposal, Screened("unscreened", why=why))
            else:
                able.append(each)
        places = sorted(able, key=self._order)
        keep = math.ceil(self._settings.keep * len(places))
        others = itertools.count(known.others if known else 0)
        for rank, each in enumerate(places, 1):
            kept = rank <= keep
            said: Said = "kept" if kept else "check" if self._checks(next(others)) else "out"
            value = self._value(each)
            figures = {} if value is None else {screen_figure(self._goal.figure): value}
            why = failures[each.number]
            self._say(each.proposal, Screened(said, figures, rank, len(places), why, each.keys))

    def _order(self, each: _Candidate) -> tuple[bool, float]:
        """Best first; what failed on distilled data last."""
        value = self._value(each)
        if value is None:
            return True, 0.0
        return False, -value if self._goal.maximize else value

    def _value(self, each: _Candidate) -> float | None:
        record = self._library.record(each.student.key)
        value = record.figures.get(self._goal.figure, math.nan) if record else math.nan
        return value if math.isfinite(value) else None

    def _failure(self, each: _Candidate) -> str:
        why = self._bench.failure([each.student]).removeprefix(f"{each.student.label}: ")
        if why or self._value(each) is not None:
            return why
        return f"{self._goal.figure} is no finite number"

    def _checks(self, number: int) -> bool:
        """Whether a configuration goes on all the same: about one by chance of each 1 / check.

        ``number`` counts the study's configurations that were not kept, from 0; the dice are those
        of a stretch of them, so a resume throws alike, and no stretch goes without.
        """
        share = self._settings.check
        if not share:
            return False
        stretches = range(max(0, int(number * share) - 1), int((number + 1) * share) + 2)
        return any(int((s + self._dice(s)) / share) == number for s in stretches)

    def _dice(self, stretch: int) -> float:
        return random.Random(f"screen {self._experiment.run.seed} {stretch}").random()

    # What follows

    def _say(self, proposal: Proposal, screened: Screened) -> None:
        self._ledger.study.note_screen(proposal.number, screened)
        self._follow(replace(proposal, screen=screened))

    def _follow(self, proposal: Proposal) -> None:
        assert proposal.screen is not None
        if proposal.screen.said == "out":
            self._ledger.screened_out(proposal, proposal.screen)
        else:
            self._passed.append(proposal)

    def _judge(self) -> Judged | None:
        """How the screen does, none if it is off; switches it off if it ranks too badly."""
        known = None if self._off else judged(self._ledger.study.trials(), self._goal.figure)
        if known is None:
            return None
        self._off = known.distrusted(self._settings.trust)
        if self._off:
            log.warning("the screen is switched off: %s", self._off)
            self._ledger.announce(ScreenOff(self._off))
        return known


def proposals(
    experiment: Experiment,
    ledger: Ledger,
    library: Library,
    bench: Bench,
    trials: int,
    concurrent: int = 1,
) -> Proposals:
    """What is left to be tried, screened where the experiment says so; see :class:`Screen`."""
    if experiment.run.screen is None:
        return Proposals(ledger, trials)
    return Screen(experiment, ledger, library, bench, trials, concurrent)
