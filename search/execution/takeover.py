"""Takeover: a trial that waits for a stage builds the stage itself if no slot is free.

A trial may wait in its actor, with its slot, for a stage whose task waits for a slot. If such
trials occupy every slot, the search would stop: the cluster has shrunk to one slot, or two
searches share two slots. So each waiting trial offers its slot to the stage scheduler. The
scheduler accepts the offer for a stage that has waited some seconds. It cancels its own task, and
receives the trial's messages in place of the task's. The stage is still built once. If the trial
is lost, another worker builds the stage.

This costs nothing: the slot was idle, and a trial has the resources that its search gives to a
stage. So every trial that waits does so for a stage in progress, and a search runs with any number
of slots. A trial cannot return its slot to Tune instead: Tune keeps the actor of a paused trial,
with its slot, for the next trial.

A stage of several workers may wait for slots that others will free. A trial builds it alone only
if the slots do not suffice for all its workers and the waiting trials.
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
"""Seconds that a stage waits for a processor before a waiting trial may build it."""


@dataclass(frozen=True)
class WaitReply:
    """The stage scheduler's reply to a trial that waits.

    Either the trial has to build ``stages`` in one pass, and to report under ``ticket``. Or
    ``failure`` describes in one line why a stage failed. If all is empty, no job is open.
    """

    stages: tuple[Stage, ...] = ()
    ticket: str = ""
    failure: str = ""


class InTrialRun(StageRun):
    """Stages that a trial builds; the scheduler passes the trial's messages to ``put``."""

    def __init__(self, node: str) -> None:
        super().__init__(task=None, node=node, in_trial=True)
        self.ticket = uuid.uuid4().hex
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, message: Any) -> None:
        """Add a list of metrics, a list of records, or an error."""
        self._messages.put_nowait(message)

    async def next_message(self) -> Any:
        """The trial's next message.

        Raises:
            TrialLost: the trial does not build the stages any more.
        """
        message = await self._messages.get()
        if isinstance(message, BaseException):
            raise message
        return message

    def cancel(self) -> None:
        """End the run; the trial learns this with its next message."""
        self.put(TrialLost("the trial that made it is gone"))


@dataclass(eq=False)
class _Offer:
    """A trial of the driver ``client`` that waits for the stages of ``keys``."""

    client: str
    keys: Collection[str]
    node: str
    reply: asyncio.Future[WaitReply]


@dataclass(eq=False)
class _Request:
    """Stages that wait for a processor; a trial may build them once ``is_mature`` is true."""

    jobs: Sequence[StageJob]
    accepted: asyncio.Future[InTrialRun]
    is_mature: bool = False

    def matches(self, offer: _Offer) -> bool:
        """Whether the trial waits for one of the stages, and its driver has requested it."""
        return any(job.stage.key in offer.keys and offer.client in job.clients for job in self.jobs)


@dataclass
class TakeoverMatcher:
    """Matches stages that wait for a processor with trials that wait for stages.

    Args:
        lacks_slots: whether the slots do not suffice for a job's workers and that many trials.
        delay_s: seconds that a stage waits before a trial may build it.
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
        """Make a trial's offer while the block runs; the future is the reply to the trial.

        Args:
            client: the trial's driver.
            keys: of the stages that the trial waits for, and of their ancestors.
            node: the trial's node.
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

        The future is the run in that trial; it ends with the block.
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
        """Pass a trial's message to its run; False if the run has ended."""
        run = self._runs.get(ticket)
        if run is not None:
            run.put(message)
        return run is not None

    def cancel(self, ticket: str) -> None:
        """End the run of a trial."""
        if ticket in self._runs:
            self._runs[ticket].cancel()

    def _schedule_maturity(self, request: _Request) -> None:
        """Match again after every delay: the request matures, and the cluster may shrink."""
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
        """Whether a trial may build it: always with one worker, as the trial's slot is idle."""
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
