"""Takeover: a trial makes a stage itself when the trial waits for it and no slot is free.

A trial may wait in its actor, with its slot, for a stage whose task waits for a slot. If such
trials hold every slot, nobody else can go on: the cluster shrank to one slot, or two searches
share two slots. So each waiting trial offers its slot to the foundry. The foundry accepts for a
stage that has waited some seconds. It withdraws its own task, and hears the trial's reports as it
would hear the task's. The stage is still made once, and by another worker if the trial is lost.

Nothing is lost by that: the slot was idle, and a trial has the resources that its search gives to
a stage. Every trial that waits therefore waits for a stage that somebody makes, and the search
goes on with any number of slots. A trial cannot give its slot back to Tune instead: Tune keeps the
actor of a paused trial, with its slot, for the next trial.

A stage of several workers is different. It may wait for slots that others will free, so a trial
makes it alone only if the cluster has too few slots for all its workers beside the waiting trials.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillhouse.search.execution.job import StageJob
from stillhouse.search.execution.tasks import StageRun, TrialLost
from stillhouse.search.stages.core.stage import Stage

TAKEOVER_DELAY_S = 3.0
"""Seconds that a stage waits for a processor before a waiting trial may make it."""


@dataclass(frozen=True)
class WaitReply:
    """What the foundry tells a trial that waits.

    The trial is to make ``stages`` itself, in one pass, and to report under ``ticket``; or one of
    its stages ``failure``, in one line; or, if all is empty, none of them is on its way any more.
    """

    stages: tuple[Stage, ...] = ()
    ticket: str = ""
    failure: str = ""


class InTrialRun(StageRun):
    """Stages that a trial makes; the foundry passes the trial's reports to :meth:`put`."""

    def __init__(self, node: str) -> None:
        super().__init__(task=None, node=node, in_trial=True)
        self.ticket = uuid.uuid4().hex
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, message: Any) -> None:
        """A report, a record or an error of the trial's."""
        self._messages.put_nowait(message)

    async def next_message(self) -> Any:
        """What the trial said next.

        Raises:
            TrialLost: the trial does not make the stages any more.
        """
        message = await self._messages.get()
        if isinstance(message, BaseException):
            raise message
        return message

    def cancel(self) -> None:
        """Hear no more of the trial; its next report tells it so."""
        self.put(TrialLost("the trial that made it is gone"))


@dataclass(eq=False)
class _Offer:
    """A trial that waits for the stages of ``keys``, for the driver ``client``."""

    client: str
    keys: Collection[str]
    node: str
    reply: asyncio.Future[WaitReply]


@dataclass(eq=False)
class _Request:
    """Stages that wait for a processor; ``is_mature`` once a trial may make them."""

    jobs: Sequence[StageJob]
    accepted: asyncio.Future[InTrialRun]
    is_mature: bool = False

    def matches(self, offer: _Offer) -> bool:
        """Whether the trial waits for one of the stages, and its driver has asked for it."""
        return any(job.stage.key in offer.keys and offer.client in job.clients for job in self.jobs)


@dataclass
class TakeoverMatcher:
    """Brings stages that wait for a processor and trials that wait for stages together.

    Args:
        crowded: whether the cluster has too few slots for a flight's workers beside so many trials.
        patience: seconds that a stage waits before a trial may make it.
    """

    lacks_slots: Callable[[StageJob, int], bool]
    delay_s: float = TAKEOVER_DELAY_S
    _offers: list[_Offer] = field(default_factory=list)
    _requests: list[_Request] = field(default_factory=list)
    _runs: dict[str, InTrialRun] = field(default_factory=dict)

    @contextlib.contextmanager
    def offer(
        self, client: str, keys: Collection[str], node: str
    ) -> Iterator[asyncio.Future[WaitReply]]:
        """A trial's offer, open while the block runs; the future tells what the trial is to make.

        Args:
            client: the trial's driver.
            keys: of the stages that the trial waits for, and of all that those rest on.
            node: where the trial is.
        """
        new_offer = _Offer(client, keys, node, asyncio.get_running_loop().create_future())
        self._offers.append(new_offer)
        try:
            self._match()
            yield new_offer.reply
        finally:
            if new_offer in self._offers:
                self._offers.remove(new_offer)

    @contextlib.contextmanager
    def request(self, jobs: Sequence[StageJob]) -> Iterator[asyncio.Future[InTrialRun]]:
        """Look for a trial while the block runs, or until the future is cancelled.

        The future is who makes the flights' stages; that ends with the block.
        """
        new_request = _Request(jobs, asyncio.get_running_loop().create_future())
        self._requests.append(new_request)
        self._schedule_maturity(new_request)
        try:
            yield new_request.accepted
        finally:
            if new_request in self._requests:
                self._requests.remove(new_request)
            if new_request.accepted.done() and not new_request.accepted.cancelled():
                self._runs.pop(new_request.accepted.result().ticket)

    def receive_report(self, ticket: str, message: Any) -> bool:
        """What a trial says of its stages; False if nobody wants them from it any more."""
        run = self._runs.get(ticket)
        if run is not None:
            run.put(message)
        return run is not None

    def cancel(self, ticket: str) -> None:
        """The trial of that ticket makes nothing any more."""
        if ticket in self._runs:
            self._runs[ticket].cancel()

    def _schedule_maturity(self, request: _Request) -> None:
        """Look again after some time: it is then mature, and later the cluster may have shrunk."""
        if request.accepted.done() or request not in self._requests:
            return
        asyncio.get_running_loop().call_later(self.delay_s, self._mark_mature, request)

    def _mark_mature(self, request: _Request) -> None:
        request.is_mature = True
        self._match()
        self._schedule_maturity(request)

    def _match(self) -> None:
        for request in [r for r in self._requests if r.is_mature and not r.accepted.done()]:
            offer = next((o for o in self._offers if request.matches(o)), None)
            if offer is not None and self._is_allowed(request):
                self._hand_over(request, offer)

    def _is_allowed(self, request: _Request) -> bool:
        """Whether it would wait longer elsewhere: for one slot, always, as the trial's is idle."""
        job = request.jobs[0]
        return job.stage.operation.workers == 1 or self.lacks_slots(job, len(self._offers))

    def _hand_over(self, request: _Request, offer: _Offer) -> None:
        self._requests.remove(request)
        self._offers.remove(offer)
        run = InTrialRun(offer.node)
        self._runs[run.ticket] = run
        request.accepted.set_result(run)
        stages = tuple(job.stage for job in request.jobs)
        offer.reply.set_result(WaitReply(stages, run.ticket))
