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

from stillhouse.search.execution.job import Flight
from stillhouse.search.execution.tasks import LostTrial, Running
from stillhouse.search.stages.core.stage import Stage

PATIENCE = 3.0
"""Seconds that a stage waits for a processor before a waiting trial may make it."""


@dataclass(frozen=True)
class Reply:
    """What the foundry tells a trial that waits.

    The trial is to make ``stages`` itself, in one pass, and to report under ``ticket``; or one of
    its stages ``failed``, in one line; or, if all is empty, none of them is on its way any more.
    """

    stages: tuple[Stage, ...] = ()
    ticket: str = ""
    failed: str = ""


class TrialRun(Running):
    """Stages that a trial makes; the foundry passes the trial's reports to :meth:`hear`."""

    def __init__(self, node: str) -> None:
        super().__init__(task=None, node=node, in_trial=True)
        self.ticket = uuid.uuid4().hex
        self._said: asyncio.Queue[Any] = asyncio.Queue()

    def hear(self, said: Any) -> None:
        """A report, a record or an error of the trial's."""
        self._said.put_nowait(said)

    async def next(self) -> Any:
        """What the trial said next.

        Raises:
            LostTrial: the trial does not make the stages any more.
        """
        said = await self._said.get()
        if isinstance(said, BaseException):
            raise said
        return said

    def stop(self) -> None:
        """Hear no more of the trial; its next report tells it so."""
        self.hear(LostTrial("the trial that made it is gone"))


@dataclass(eq=False)
class _Offer:
    """A trial that waits for the stages of ``keys``, for the driver ``client``."""

    client: str
    keys: Collection[str]
    node: str
    reply: asyncio.Future[Reply]


@dataclass(eq=False)
class _Request:
    """Stages that wait for a processor; ``mature`` once a trial may make them."""

    flights: Sequence[Flight]
    taken: asyncio.Future[TrialRun]
    mature: bool = False

    def suits(self, offer: _Offer) -> bool:
        """Whether the trial waits for one of the stages, and its driver has asked for it."""
        return any(f.stage.key in offer.keys and offer.client in f.clients for f in self.flights)


@dataclass
class Takeovers:
    """Brings stages that wait for a processor and trials that wait for stages together.

    Args:
        crowded: whether the cluster has too few slots for a flight's workers beside so many trials.
        patience: seconds that a stage waits before a trial may make it.
    """

    crowded: Callable[[Flight, int], bool]
    patience: float = PATIENCE
    _offers: list[_Offer] = field(default_factory=list)
    _requests: list[_Request] = field(default_factory=list)
    _runs: dict[str, TrialRun] = field(default_factory=dict)

    @contextlib.contextmanager
    def offer(
        self, client: str, keys: Collection[str], node: str
    ) -> Iterator[asyncio.Future[Reply]]:
        """A trial's offer, open while the block runs; the future tells what the trial is to make.

        Args:
            client: the trial's driver.
            keys: of the stages that the trial waits for, and of all that those rest on.
            node: where the trial is.
        """
        made = _Offer(client, keys, node, asyncio.get_running_loop().create_future())
        self._offers.append(made)
        try:
            self._match()
            yield made.reply
        finally:
            if made in self._offers:
                self._offers.remove(made)

    @contextlib.contextmanager
    def request(self, flights: Sequence[Flight]) -> Iterator[asyncio.Future[TrialRun]]:
        """Look for a trial while the block runs, or until the future is cancelled.

        The future is who makes the flights' stages; that ends with the block.
        """
        made = _Request(flights, asyncio.get_running_loop().create_future())
        self._requests.append(made)
        self._ripen(made)
        try:
            yield made.taken
        finally:
            if made in self._requests:
                self._requests.remove(made)
            if made.taken.done() and not made.taken.cancelled():
                self._runs.pop(made.taken.result().ticket)

    def hear(self, ticket: str, said: Any) -> bool:
        """What a trial says of its stages; False if nobody wants them from it any more."""
        run = self._runs.get(ticket)
        if run is not None:
            run.hear(said)
        return run is not None

    def lose(self, ticket: str) -> None:
        """The trial of that ticket makes nothing any more."""
        if ticket in self._runs:
            self._runs[ticket].stop()

    def _ripen(self, request: _Request) -> None:
        """Look again after some time: it is then mature, and later the cluster may have shrunk."""
        if request.taken.done() or request not in self._requests:
            return
        asyncio.get_running_loop().call_later(self.patience, self._ripened, request)

    def _ripened(self, request: _Request) -> None:
        request.mature = True
        self._match()
        self._ripen(request)

    def _match(self) -> None:
        for request in [r for r in self._requests if r.mature and not r.taken.done()]:
            offer = next((o for o in self._offers if request.suits(o)), None)
            if offer is not None and self._may(request):
                self._hand_over(request, offer)

    def _may(self, request: _Request) -> bool:
        """Whether it would wait longer elsewhere: for one slot, always, as the trial's is idle."""
        first = request.flights[0]
        return first.stage.work.workers == 1 or self.crowded(first, len(self._offers))

    def _hand_over(self, request: _Request, offer: _Offer) -> None:
        self._requests.remove(request)
        self._offers.remove(offer)
        run = TrialRun(offer.node)
        self._runs[run.ticket] = run
        request.taken.set_result(run)
        stages = tuple(flight.stage for flight in request.flights)
        offer.reply.set_result(Reply(stages, run.ticket))
