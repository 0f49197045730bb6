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
import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import ray
import torch
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from search.cluster import NAMESPACE
from search.events import StageChanged
from search.library.record import Record
from search.library.store import Library
from search.lost import Lost
from search.make import MOST, Missing, make, make_together
from search.settings import Resources
from search.stage import Report, Stage

LOST_WORKER = (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)
RETRIES = 3
GATHER = 0.5
"""Seconds in which stages that can be made in one pass are gathered."""
LEAST = 4
"""Stages of a pass; fewer would hardly share it."""
SILENCE = 60.0
"""Seconds after which a driver that no longer asks counts as gone."""

_Yielded = TypeVar("_Yielded")
_Made = TypeVar("_Made")


@ray.remote(max_retries=0)
def _make_remotely(stage: Stage, library: str, threads: int) -> Iterator[Report | Record]:
    torch.set_num_threads(threads)
    yield from _with_result(make(stage, Library(library, found=True)))


@ray.remote(max_retries=0)
def _make_together_remotely(
    stages: list[Stage], library: str, threads: int
) -> Iterator[list[Report] | list[Record]]:
    torch.set_num_threads(threads)
    yield from _with_result(make_together(stages, Library(library, found=True)))


def _with_result(making: Generator[_Yielded, None, _Made]) -> Iterator[_Yielded | _Made]:
    """What a generator yields, and then what it returns: Ray passes on the former only."""
    made = yield from making
    yield made


@dataclass
class _Flight:
    """One stage on its way; ``clients`` are the drivers that want it.

    ``parents`` are the tasks of the stages it rests on, held here because a flight that failed is
    forgotten by name.
    """

    stage: Stage
    resources: Resources
    parents: list[tuple[Stage, asyncio.Task[Record]]]
    clients: set[str] = field(default_factory=set)
    task: asyncio.Task[Record] | None = None
    running: Any = None
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
        self._heard: dict[str, float] = {}
        self._reaper: asyncio.Task[None] | None = None
        self._gathering: dict[str, list[tuple[_Flight, asyncio.Future[Record]]]] = {}
        self._departures: set[asyncio.Task[None]] = set()

    async def want(self, client: str, stages: list[Stage], resources: Resources) -> None:
        """Have ``stages`` made, and before them all they rest on. Returns at once."""
        self._heard[client] = time.monotonic()
        self._reaper = self._reaper or asyncio.create_task(self._reap())
        for stage in stages:
            for needed in stage.lineage():
                flight = self._flights.get(needed.key)
                if flight is None:
                    parents = [(p, self._task(p)) for p in needed.parents]
                    flight = self._flights[needed.key] = _Flight(needed, resources, parents)
                    flight.task = asyncio.create_task(self._fly(flight))
                    flight.task.add_done_callback(_seen)
                elif _landed(flight) and needed is stage:  # its news may be older than the driver
                    own = client in flight.clients
                    told = flight.landed_as if own else "reused"
                    self._tell(stage, told, record=self._library.record(stage.key))
                flight.clients.add(client)

    async def news(self, client: str, since: int) -> tuple[int, list[StageChanged]]:
        """What has changed since the ``since``-th change; asking keeps a driver's wishes alive."""
        self._heard[client] = time.monotonic()
        return len(self._news), self._news[since:]

    async def settled(self, keys: list[str]) -> None:
        """Return when none of the stages is on its way any more, made or not."""
        flights = [self._flights[key].task for key in keys if key in self._flights]
        await asyncio.gather(*map(asyncio.shield, filter(None, flights)), return_exceptions=True)

    async def leave(self, client: str) -> None:
        """A driver wants nothing any more: what only it wanted is stopped."""
        self._heard.pop(client, None)
        for flight in self._flights.values():
            flight.clients.discard(client)
        for key, flight in list(self._flights.items()):
            if not flight.clients:
                self._flights.pop(key)
                if flight.task is not None and not flight.task.done():
                    flight.task.cancel()
                if flight.running is not None and not any(f.clients for f in flight.companions):
                    ray.cancel(flight.running, force=True)

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
            lost = _lost(error)
            reason = lost.problem.message if lost else _reason(error)
            self._tell(stage, "failed", reason=reason, lost=lost is not None)
            raise
        flight.landed_as = "made"
        self._tell(stage, "made", record=record)
        return record

    def _task(self, stage: Stage) -> asyncio.Task[Record]:
        task = self._flights[stage.key].task
        assert task is not None
        return task

    async def _try(self, flight: _Flight) -> Record:
        lost = 0
        while True:
            try:
                return await self._run(flight)
            except LOST_WORKER as error:
                lost += 1
                if lost > RETRIES:
                    raise RuntimeError(f"lost its worker {lost} times: {_reason(error)}") from None
            except RayTaskError as error:
                if not isinstance(error.cause, Missing):
                    raise
                await self._make_again(flight, error.cause.key)

    async def _run(self, flight: _Flight) -> Record:
        stage, wish = flight.stage, flight.resources
        options = {"num_cpus": wish.cpu, "num_gpus": wish.gpu, "name": stage.label}
        threads = max(1, int(wish.cpu))
        flight.running = _make_remotely.options(**options).remote(stage, self._uri, threads)
        async for reference in flight.running:
            said = await reference
            if isinstance(said, Record):
                return said
            self._tell(stage, "running", epoch=int(said.get("epoch", 0)))
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
        for some in _shared_out(waiting, waiting[0][0].resources) if waiting else ():
            passage = asyncio.create_task(self._carry(some))
            self._departures.add(passage)
            passage.add_done_callback(self._departures.discard)

    async def _carry(self, some: list[tuple[_Flight, asyncio.Future[Record]]]) -> None:
        """Make some stages in one task; if that is not to be, each alone."""
        flights = tuple(flight for flight, _ in some)
        records: list[Record] = []
        for _ in range(RETRIES if len(some) > 1 else 0):
            try:
                records = await self._run_together(flights)
                break
            except Exception as error:
                if lost := _lost(error):  # alone it would be no better
                    for _, landed in some:
                        if not landed.done():
                            landed.set_exception(lost)
                unwanted = all(landed.done() for _, landed in some)
                if unwanted or not isinstance(error, LOST_WORKER):
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
        wish, stages = flights[0].resources, [flight.stage for flight in flights]
        name = f"{stages[0].work.kind} x {len(stages)}"
        options = {"num_cpus": wish.cpu, "num_gpus": wish.gpu, "name": name}
        threads = max(1, int(wish.cpu))
        task: Any = _make_together_remotely
        running = task.options(**options).remote(stages, self._uri, threads)
        for flight in flights:
            flight.running, flight.companions = running, flights
        async for reference in running:
            said = await reference
            if said and isinstance(said[0], Record):
                return list(said)
            for stage, report in zip(stages, said, strict=True):
                self._tell(stage, "running", epoch=int(report.get("epoch", 0)))
        raise RuntimeError("ended without records")

    async def _make_again(self, flight: _Flight, key: str) -> None:
        """A parent was damaged or removed: forget it, make it, then go on."""
        again = [stage for stage in flight.stage.lineage() if stage.key == key]
        self._flights.pop(key, None)
        self._library = Library(self._uri)
        for client in tuple(flight.clients):
            await self.want(client, again, flight.resources)
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
        lost: bool = False,
    ) -> None:
        event = StageChanged(
            stage.key, stage.label, state, epoch, stage.work.epochs, record, reason, lost
        )
        self._news.append(event)


def _shared_out(waiting: list[Any], wish: Resources) -> list[list[Any]]:
    """In as many parts as run at once on the cluster, none so small that a pass is wasted."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    count = passes(len(waiting), wish, found)
    return [waiting[i::count] for i in range(count)]


def passes(stages: int, wish: Resources, cluster: Mapping[str, float]) -> int:
    """How many passes ``stages`` that could be made in one are shared out over.

    As many as the cluster's processors and GPUs have room for at once, of no fewer than ``LEAST``
    stages and no more than ``MOST``.
    """
    room = [cluster.get("CPU", 0.0) / wish.cpu]
    if wish.gpu:
        room.append(cluster.get("GPU", 0.0) / wish.gpu)
    return max(1, min(int(min(room)), stages // LEAST), math.ceil(stages / MOST))


def await_stages(library: Library, stages: Iterable[Stage]) -> None:
    """Wait for stages that the library's foundry is making; at once where there is none."""
    missing = [stage.key for stage in stages if not library.has(stage.key)]
    if missing:
        try:
            foundry: Any = ray.get_actor(foundry_name(library), namespace=NAMESPACE)
        except ValueError:  # nobody makes stages here: the trial does
            return
        ray.get(foundry.settled.remote(missing))


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
        if lost := _lost(error):
            raise lost from None
        raise RuntimeError(f"{stage.label}, which it needs, failed: {_reason(error)}") from None


def _landed(flight: _Flight) -> bool:
    task = flight.task
    return task is not None and task.done() and not task.cancelled() and not task.exception()


def _seen(task: asyncio.Task[Record]) -> None:
    """A failure is told as news; asyncio need not warn that nobody awaited it."""
    if not task.cancelled():
        task.exception()


def _lost(error: BaseException) -> Lost | None:
    """The library's failure that an error stands for, if it does."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return cause if isinstance(cause, Lost) else None


def _reason(error: BaseException) -> str:
    """One line: the program's own error, not Ray's wrapping of it."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    text = str(cause).strip() or "no message"
    return text if isinstance(cause, RuntimeError) else f"{type(cause).__name__}: {text}"
