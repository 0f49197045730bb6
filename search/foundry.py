"""The foundry: the one place on the cluster that has missing artifacts made, each once.

It is a named actor that occupies no processor and owns the tasks it starts: a task started inside
a trial would be captured by that trial's placement group and die with it. Ray's own retries are
off, because they lose reports of a generator; the foundry retries lost workers itself, and the
stage goes on from its last saved epoch. A program error is neither retried nor kept: it fails all
who wait, with the same reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from search.cluster import NAMESPACE
from search.events import StageChanged
from search.library.record import Record
from search.library.store import Library
from search.make import Missing
from search.room import Room, passes, places
from search.settings import Resources
from search.stage import Stage
from search.tasks import follow, given_up, is_lost, lost_place, reason, start

RETRIES = 3
GATHER = 0.5
"""Seconds in which stages that can be made in one pass are gathered."""
ASKED_AGAIN = 20
"""How often a trial asks for the stages of a foundry that was lost, a second apart."""
SILENCE = 60.0
"""Seconds after which a driver that no longer asks counts as gone."""


@dataclass
class _Flight:
    """One stage on its way; ``clients`` are the drivers that want it.

    ``parents`` are the tasks of the stages it rests on, held here because a flight that failed is
    forgotten by name.
    """

    stage: Stage
    resources: Resources
    hang_after: float | None
    parents: list[tuple[Stage, asyncio.Task[Record]]]
    clients: set[str] = field(default_factory=set)
    task: asyncio.Task[Record] | None = None
    running: Any = None
    reached: int = 0
    """The furthest epoch that was reported, in any attempt."""
    companions: tuple[_Flight, ...] = ()
    """Who is made by the same running task."""
    landed_as: Literal["made", "reused"] = "reused"


class Foundry:
    """The actor's class; use it through :class:`Orders`."""

    def __init__(self, library: str) -> None:
        self._uri = library
        self._library = Library(library, found=True)
        self._flights: dict[str, _Flight] = {}
        self._news: list[StageChanged] = []
        self._forgotten = 0
        self._known: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._room = Room(_fitting)
        self._reaper: asyncio.Task[None] | None = None
        self._gathering: dict[str, list[tuple[_Flight, asyncio.Future[Record]]]] = {}
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
        if most is not None:
            self._room.open(client, most)
        self._reaper = self._reaper or asyncio.create_task(self._reap())
        for stage in stages:
            for needed in stage.lineage():
                flight = self._flights.get(needed.key)
                if flight is None:
                    parents = [(p, self._task(p)) for p in needed.parents]
                    flight = _Flight(needed, resources, hang_after, parents)
                    self._flights[needed.key] = flight
                    flight.task = asyncio.create_task(self._fly(flight))
                    flight.task.add_done_callback(_seen)
                elif _landed(flight) and needed is stage:  # its news may be older than the driver
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

    async def settled(self, keys: list[str]) -> None:
        """Return when none of the stages is on its way any more, made or not."""
        flights = [self._flights[key].task for key in keys if key in self._flights]
        await asyncio.gather(*map(asyncio.shield, filter(None, flights)), return_exceptions=True)

    async def leave(self, client: str) -> None:
        """A driver wants nothing any more: what only it wanted is stopped."""
        self._heard.pop(client, None)
        self._known.pop(client, None)
        self._room.close(client)
        for flight in self._flights.values():
            flight.clients.discard(client)
        for key, flight in list(self._flights.items()):
            if not flight.clients:
                self._flights.pop(key)
                if flight.task is not None and not flight.task.done():
                    flight.task.cancel()
                if flight.running is not None and not any(f.clients for f in flight.companions):
                    flight.running.stop()

    async def _fly(self, flight: _Flight) -> Record:
        stage = flight.stage
        try:
            for parent, task in flight.parents:
                await _landing(parent, task)
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
            self._tell(stage, "failed", reason=told, lost=lost is not None)
            raise
        flight.landed_as = "made"
        self._tell(stage, "made", record=record)
        return record

    def _task(self, stage: Stage) -> asyncio.Task[Record]:
        task = self._flights[stage.key].task
        assert task is not None
        return task

    async def _try(self, flight: _Flight) -> Record:
        lost = reached = 0
        while True:
            try:
                return await self._run(flight)
            except Exception as error:
                if isinstance(error, RayTaskError) and isinstance(error.cause, Missing):
                    await self._make_again(flight, error.cause.key)
                    continue
                if not is_lost(error):
                    raise
                # Only in a row without a further epoch: long stages may lose many machines.
                lost = 1 if flight.reached > reached else lost + 1
                reached = flight.reached
                if lost > RETRIES:
                    raise RuntimeError(given_up(error, lost)) from None
                if isinstance(error, OutOfMemoryError):
                    await asyncio.sleep(2.0**lost)  # others may end meanwhile

    async def _run(self, flight: _Flight) -> Record:
        stage, node = flight.stage, ""
        async with self._room.place(flight.resources):
            flight.running = start([stage], self._uri, flight.resources)
            async for said in follow(flight.running, flight.hang_after):
                if isinstance(said, Record):
                    return said
                if isinstance(said, str):
                    node, said = said, {}
                epoch = int(said.get("epoch", 0))
                flight.reached = max(flight.reached, epoch)
                self._tell(stage, "running", epoch=epoch, node=node)
        raise RuntimeError("ended without a record")

    async def _join(self, flight: _Flight) -> Record:
        """Be made in one pass with all that ask for the same pass within a moment."""
        group = flight.stage.group
        landed: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        if group not in self._gathering:
            self._gathering[group] = []
            departure = asyncio.create_task(self._depart(group))
            self._departures.add(departure)
            departure.add_done_callback(self._departures.discard)
        self._gathering[group].append((flight, landed))
        return await landed

    async def _depart(self, group: str) -> None:
        await asyncio.sleep(GATHER)
        waiting = [(f, landed) for f, landed in self._gathering.pop(group) if not landed.done()]
        count = passes(len(waiting), self._room.of(waiting[0][0].resources)) if waiting else 0
        for some in [waiting[i::count] for i in range(count)]:
            passage = asyncio.create_task(self._carry(some))
            self._departures.add(passage)
            passage.add_done_callback(self._departures.discard)

    async def _carry(self, some: list[tuple[_Flight, asyncio.Future[Record]]]) -> None:
        """Make some stages in one task; if that is not to be, each alone."""
        flights = tuple(flight for flight, _ in some)
        records: list[Record] = []
        for _ in range(RETRIES if len(some) > 1 else 0):
            try:
                async with self._room.place(flights[0].resources):
                    if not all(landed.done() for _, landed in some):
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

    async def _run_together(self, flights: tuple[_Flight, ...]) -> list[Record]:
        first, stages = flights[0], [flight.stage for flight in flights]
        running = start(stages, self._uri, first.resources)
        for flight in flights:
            flight.running, flight.companions = running, flights
        node = ""
        async for said in follow(running, first.hang_after):
            if isinstance(said, str):
                node, said = said, [{} for _ in stages]
            if said and isinstance(said[0], Record):
                return list(said)
            for stage, report in zip(stages, said, strict=True):
                self._tell(stage, "running", epoch=int(report.get("epoch", 0)), node=node)
        raise RuntimeError("ended without records")

    async def _make_again(self, flight: _Flight, key: str) -> None:
        """A parent was damaged or removed: forget it, make it, then go on."""
        again = [stage for stage in flight.stage.lineage() if stage.key == key]
        self._flights.pop(key, None)
        self._library = Library(self._uri, found=True)
        for client in tuple(flight.clients):
            await self.want(client, again, flight.resources, flight.hang_after)
        for stage in again:
            await _landing(stage, self._task(stage))

    async def _reap(self) -> None:
        """Drop drivers that fell silent; go when there is nobody left."""
        while True:
            await asyncio.sleep(SILENCE / 4)
            now = time.monotonic()
            for client in [c for c, heard in self._heard.items() if now - heard > SILENCE]:
                await self.leave(client)
            if not self._heard:
                ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _tell(
        self,
        stage: Stage,
        state: Literal["queued", "running", "made", "reused", "failed"],
        epoch: int = 0,
        record: Record | None = None,
        reason: str = "",
        node: str = "",
        lost: bool = False,
    ) -> None:
        event = StageChanged(
            stage.key, stage.label, state, epoch, stage.work.epochs, record, reason, node, lost
        )
        self._news.append(event)


def _fitting(wish: Resources) -> int:
    """How many tasks the nodes that are there run at once."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return places(wish, found)


def await_stages(library: Library, stages: Iterable[Stage]) -> None:
    """Wait for stages that the library's foundry is making; at once where there is none.

    Where it is lost meanwhile its drivers set up another, which is waited for likewise.
    """
    wanted, asked_again = {stage.key for stage in stages}, 0
    while missing := [key for key in wanted if not library.has(key)]:
        try:
            foundry: Any = ray.get_actor(foundry_name(library), namespace=NAMESPACE)
            ray.get(foundry.settled.remote(missing))
        except RayActorError:
            asked_again = ASKED_AGAIN
        except ValueError:  # there is none, or not yet
            pass
        if not asked_again:  # nobody makes them: the trial does
            return
        asked_again -= 1
        time.sleep(1.0)


def foundry_name(library: Library) -> str:
    """What the one foundry of a library is called on a cluster."""
    return f"foundry-{hashlib.sha256(library.uri.encode()).hexdigest()[:16]}"


async def _landing(stage: Stage, task: asyncio.Task[Record]) -> None:
    """Wait for a stage that another needs.

    Raises:
        RuntimeError: it failed.
        Lost: the library cannot be used.
    """
    try:
        await asyncio.shield(task)
    except Exception as error:
        if lost := lost_place(error):
            raise lost from None
        raise RuntimeError(f"{stage.label}, which it needs, failed: {reason(error)}") from None


def _landed(flight: _Flight) -> bool:
    task = flight.task
    return task is not None and task.done() and not task.cancelled() and not task.exception()


def _seen(task: asyncio.Task[Record]) -> None:
    """A failure is told as news; asyncio need not warn that nobody awaited it."""
    if not task.cancelled():
        task.exception()
