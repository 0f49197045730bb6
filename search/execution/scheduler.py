"""The foundry: the one place on the cluster that has missing artifacts made, each once.

It is a named actor that occupies no processor and owns the tasks it starts: a task started inside
a trial would be captured by that trial's placement group and die with it. Ray's own retries are
off, because they lose reports of a generator; the foundry retries lost workers itself, and the
stage goes on from its last saved epoch. A program error is neither retried nor kept: it fails all
who wait, with the same reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError

from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution.builder import Missing
from stillhouse.search.execution.capacity import passes
from stillhouse.search.execution.job import Flight, landing, seen
from stillhouse.search.execution.placement import Placement
from stillhouse.search.execution.takeover import Reply
from stillhouse.search.execution.tasks import (
    Running,
    cause_of,
    follow,
    given_up,
    is_lost,
    lost_place,
    reason,
)
from stillhouse.search.experiment.schema import Resources
from stillhouse.search.monitoring.events import StageChanged, StageState
from stillhouse.search.stages.core.stage import Report, Stage

RETRIES = 3
GATHER = 0.5
"""Seconds in which stages that can be made in one pass are gathered."""
SILENCE = 60.0
"""Seconds after which a driver that no longer asks counts as gone."""


class Foundry:
    """The actor's class; use it through :class:`Orders`."""

    def __init__(self, library: str) -> None:
        self._uri = library
        self._library = Library(library, found=True)
        self._flights: dict[str, Flight] = {}
        self._news: list[StageChanged] = []
        self._forgotten = 0
        self._known: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._placement = Placement(library)
        self._wishes: dict[str, tuple[Resources, float | None]] = {}
        self._failures: dict[str, str] = {}
        self._reaper: asyncio.Task[None] | None = None
        self._gathering: dict[str, list[tuple[Flight, asyncio.Future[Record]]]] = {}
        self._departures: set[asyncio.Task[None]] = set()

    async def want(
        self,
        client: str,
        stages: list[Stage],
        resources: Resources,
        hang_after: float | None = None,
        most: int | None = None,
    ) -> None:
        """Have ``stages`` made, and before them all they rest on. Returns at once.

        A stage that gives no report for ``hang_after`` seconds counts as lost. ``most`` is how many
        tasks at once the driver can use, if it says so anew.
        """
        self._heard[client] = time.monotonic()
        self._wishes[client] = (resources, hang_after)
        if most is not None:
            self._placement.room.open(client, most)
        self._reaper = self._reaper or asyncio.create_task(self._reap())
        for stage in stages:
            for needed in stage.lineage():
                self._failures.pop(needed.key, None)
                flight = self._flights.get(needed.key)
                if flight is None:
                    parents = [(p, self._task(p)) for p in needed.parents]
                    flight = Flight(needed, resources, hang_after, parents)
                    self._flights[needed.key] = flight
                    flight.task = asyncio.create_task(self._fly(flight))
                    flight.task.add_done_callback(seen)
                elif flight.landed and needed is stage:  # its news may be older than the driver
                    own = client in flight.clients
                    told = flight.landed_as if own else "reused"
                    self._tell(stage, told, record=self._library.record(stage.key))
                flight.clients.add(client)

    async def listen(self, client: str) -> int:
        """A driver wants to hear of changes from now on; how many there have been."""
        self._heard[client] = time.monotonic()
        told = self._forgotten + len(self._news)
        self._known.setdefault(client, told)
        return told

    async def news(self, client: str, since: int) -> tuple[int, list[StageChanged], bool]:
        """What has changed since the ``since``-th change; asking keeps a driver's wishes alive.

        Also whether the driver was known: one that was silent for long has been dropped, and must
        say again what it wants. What all drivers know by now is forgotten.
        """
        was_known = client in self._heard
        self._heard[client] = time.monotonic()
        self._known[client] = since
        known = min(self._known.values()) - self._forgotten
        if known > 0:
            del self._news[:known]
            self._forgotten += known
        later = self._news[max(0, since - self._forgotten) :]
        return self._forgotten + len(self._news), later, was_known

    async def wait(self, client: str, stages: list[Stage], trial: Any, node: str) -> Reply:
        """A trial waits, in its slot, for ``stages`` that it does not find in the library.

        Returns when none of them is on its way any more, when one has failed, or when the trial is
        to make some itself (:mod:`stillhouse.search.execution.takeover`). What was made and lost
        since is made again.
        """
        for stage in stages:
            if why := self._failures.get(stage.key):
                return Reply(failed=f"{stage.label}: {why}")
        await self._want_again(client, stages)
        flights = [self._flights[stage.key] for stage in stages if stage.key in self._flights]
        keys = {needed.key for flight in flights for needed in flight.stage.lineage()}
        settled = asyncio.create_task(_settled(flights))
        left = asyncio.create_task(_left(trial))
        with self._placement.takeovers.offer(client, keys, node) as taken:
            any_of: set[asyncio.Future[Any]] = {settled, left, taken}
            await asyncio.wait(any_of, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        if taken.done():
            reply = taken.result()
            left.add_done_callback(lambda _: self._placement.takeovers.lose(reply.ticket))
            self._keep(left)
            return reply
        left.cancel()
        return Reply(failed=next(filter(None, (flight.failure() for flight in flights)), ""))

    async def hear(self, ticket: str, said: Any) -> bool:
        """What a trial says of stages it makes; False if nobody wants them from it any more."""
        return self._placement.takeovers.hear(ticket, said)

    async def leave(self, client: str) -> None:
        """A driver wants nothing any more: what only it wanted is stopped."""
        self._heard.pop(client, None)
        self._known.pop(client, None)
        self._wishes.pop(client, None)
        self._placement.room.close(client)
        for flight in self._flights.values():
            flight.clients.discard(client)
        for key, flight in list(self._flights.items()):
            if not flight.clients:
                self._flights.pop(key)
                if flight.task is not None and not flight.task.done():
                    flight.task.cancel()
                if flight.running is not None and not any(f.clients for f in flight.companions):
                    flight.running.stop()

    async def _fly(self, flight: Flight) -> Record:
        stage = flight.stage
        try:
            for parent, task in flight.parents:
                await landing(parent, task)
            self._tell(stage, "queued")
            found = self._library.record(stage.key)
            if found is not None:
                self._tell(stage, "reused", record=found)
                return found
            record = await (self._join(flight) if stage.group else self._try(flight))
        except Exception as error:
            self._flights.pop(stage.key, None)  # not kept: who asks again gets a new attempt
            lost = lost_place(error)
            told = lost.problem.message if lost else reason(error)
            if not lost:
                self._failures[stage.key] = told
            self._tell(stage, "failed", reason=told, lost=lost is not None)
            raise
        flight.landed_as = "made"
        self._tell(stage, "made", record=record)
        return record

    def _task(self, stage: Stage) -> asyncio.Task[Record]:
        task = self._flights[stage.key].task
        assert task is not None
        return task

    async def _try(self, flight: Flight) -> Record:
        lost = reached = 0
        while True:
            try:
                return await self._run(flight)
            except Exception as error:
                cause = cause_of(error)
                if isinstance(cause, Missing):
                    await self._make_again(flight, cause.key)
                    continue
                if not is_lost(error):
                    raise
                # Only in a row without a further epoch: long stages may lose many machines.
                lost = 1 if flight.reached > reached else lost + 1
                reached = flight.reached
                if lost > RETRIES:
                    raise RuntimeError(given_up(error, lost)) from None
                self._tell(flight.stage, "queued")
                if isinstance(error, OutOfMemoryError):
                    await asyncio.sleep(2.0**lost)  # others may end meanwhile

    async def _run(self, flight: Flight) -> Record:
        stage = flight.stage
        async with self._placement.place((flight,)) as running:
            self._tell(stage, "running", on=running)
            async for said in follow(running, flight.hang_after):
                if isinstance(said, Record):
                    return said
                epoch = int(said.get("epoch", 0))
                flight.reached = max(flight.reached, epoch)
                self._tell(stage, "running", epoch, on=running)
        raise RuntimeError("ended without a record")

    async def _join(self, flight: Flight) -> Record:
        """Be made in one pass with all that ask for the same pass within a moment."""
        group = flight.stage.group
        landed: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        if group not in self._gathering:
            self._gathering[group] = []
            self._keep(asyncio.create_task(self._depart(group)))
        self._gathering[group].append((flight, landed))
        return await landed

    async def _depart(self, group: str) -> None:
        await asyncio.sleep(GATHER)
        waiting = [(f, landed) for f, landed in self._gathering.pop(group) if not landed.done()]
        count = (
            passes(len(waiting), self._placement.room.of(waiting[0][0].resources)) if waiting else 0
        )
        for some in [waiting[i::count] for i in range(count)]:
            self._keep(asyncio.create_task(self._carry(some)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task that nobody awaits: asyncio itself does not."""
        self._departures.add(task)
        task.add_done_callback(self._departures.discard)

    async def _carry(self, some: list[tuple[Flight, asyncio.Future[Record]]]) -> None:
        """Make some stages in one task; if that is not to be, each alone."""
        flights = tuple(flight for flight, _ in some)
        records: list[Record] = []
        for _ in range(RETRIES if len(some) > 1 else 0):
            try:
                records = await self._run_together(flights)
                break
            except Exception as error:
                if lost := lost_place(error):  # alone it would be no better
                    for _, landed in some:
                        if not landed.done():
                            landed.set_exception(lost)
                unwanted = all(landed.done() for _, landed in some)
                if unwanted or not is_lost(error):
                    break  # alone, each says what is wrong with itself
                for flight in flights:
                    self._tell(flight.stage, "queued")
        for i, (flight, landed) in enumerate(some):
            flight.companions = ()
            if landed.done():  # its drivers left
                continue
            try:
                record = records[i] if records else await self._try(flight)
            except Exception as error:
                if not landed.done():
                    landed.set_exception(error)
            else:
                if not landed.done():
                    landed.set_result(record)

    async def _run_together(self, flights: tuple[Flight, ...]) -> list[Record]:
        for flight in flights:
            flight.companions = flights
        nothing: list[Report] = [{} for _ in flights]
        async with self._placement.place(flights) as running:
            self._tell_all(flights, nothing, running)
            async for said in follow(running, flights[0].hang_after):
                if said and isinstance(said[0], Record):
                    return list(said)
                self._tell_all(flights, said, running)
        raise RuntimeError("ended without records")

    async def _want_again(self, client: str, stages: Sequence[Stage]) -> None:
        """Have stages made that a trial misses though they were there; nothing for a stranger."""
        there = [s for s in stages if s.key not in self._flights or self._flights[s.key].landed]
        if there and client in self._wishes:
            for stage in there:
                self._flights.pop(stage.key, None)
            self._library = Library(self._uri, found=True)
            await self.want(client, there, *self._wishes[client])

    async def _make_again(self, flight: Flight, key: str) -> None:
        """A parent was damaged or removed: forget it, make it, then go on."""
        again = [stage for stage in flight.stage.lineage() if stage.key == key]
        self._flights.pop(key, None)
        self._library = Library(self._uri, found=True)
        for client in tuple(flight.clients):
            await self.want(client, again, flight.resources, flight.hang_after)
        for stage in again:
            await landing(stage, self._task(stage))

    async def _reap(self) -> None:
        """Drop drivers that fell silent; go when there is nobody left."""
        while True:
            await asyncio.sleep(SILENCE / 4)
            now = time.monotonic()
            for client in [c for c, heard in self._heard.items() if now - heard > SILENCE]:
                await self.leave(client)
            if not self._heard:
                ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _tell_all(self, flights: Sequence[Flight], reports: Sequence[Report], on: Running) -> None:
        for flight, report in zip(flights, reports, strict=True):
            self._tell(flight.stage, "running", int(report.get("epoch", 0)), on=on)

    def _tell(
        self,
        stage: Stage,
        state: StageState,
        epoch: int = 0,
        record: Record | None = None,
        reason: str = "",
        lost: bool = False,
        on: Running | None = None,
    ) -> None:
        node, in_trial = (on.node, on.in_trial) if on else ("", False)
        about = (stage.key, stage.label, state, epoch, stage.work.epochs)
        self._news.append(StageChanged(*about, record, reason, node, lost, in_trial))


def foundry_name(library: Library) -> str:
    """What the one foundry of a library is called on a cluster."""
    return f"foundry-{hashlib.sha256(library.uri.encode()).hexdigest()[:16]}"


async def _settled(flights: Sequence[Flight]) -> None:
    """Return when all flights have ended, or one has failed."""
    if tasks := [flight.task for flight in flights if flight.task is not None]:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)


async def _left(trial: Any) -> None:
    """Return when a trial's actor is lost, or done with what it does now."""
    with contextlib.suppress(ray.exceptions.RayError):
        await trial.__ray_ready__.remote()
