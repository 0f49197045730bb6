"""Making a stage, wherever one is: here in this process, in a Ray task, or in a trial."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stillhouse.methods.core.runtime.communication import ALONE, Worker
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Damaged, Library, pack
from stillhouse.search.core.provenance import _here
from stillhouse.search.stages.core.stage import Bench, Product, Report, Stage
from stillhouse.spaces.config.base import fingerprint

SAVE_EVERY = 20.0
"""Seconds between two saves of a half-done stage."""
MOST = 64
"""Stages made in one pass."""


def _stays() -> bool:
    return False


@dataclass
class LibrarySaves:
    """Keeps a stage's half-done state in the library's scratch, every ``every`` seconds."""

    library: Library
    key: str
    every: float = SAVE_EVERY
    leaving: Callable[[], bool] = _stays
    """Whether this machine is about to be taken away: every epoch is saved then."""
    _last: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Tensor] | None:
        return self.library.load_scratch(self.key)

    def due(self) -> bool:
        return time.monotonic() - self._last >= self.every or self.leaving()

    def store(self, tensors: dict[str, Tensor]) -> None:
        self.library.save_scratch(self.key, tensors)
        self._last = time.monotonic()


class Missing(RuntimeError):
    """A parent that was in the library is there no more: ``key`` is to be made again."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key

    def __reduce__(self) -> tuple[type[Missing], tuple[str, str]]:
        return type(self), (self.key, str(self))


def pick_device() -> torch.device:
    """The device this process was given."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make(
    stage: Stage,
    library: Library,
    every: float = SAVE_EVERY,
    leaving: Callable[[], bool] = _stays,
    worker: Worker = ALONE,
) -> Generator[Report, None, Record]:
    """Make one stage whose parents are in the library; yields its reports.

    If the stage is there already, its last report comes again and nothing is run. ``worker`` is
    one of those that make it together; the leading one publishes it.

    Raises:
        Missing: a parent is not in the library (any more).
    """
    known = worker.told(library.record(stage.key))
    if known is not None:
        yield dict(known.curve[-1]) if known.curve else {}
        return known
    started = time.monotonic()
    parents = [_parent(parent, library) for parent in stage.parents]
    bench = Bench(pick_device(), LibrarySaves(library, stage.key, every, leaving), worker)
    curve: list[Report] = []
    work = stage.work.run(stage.data, parents, bench)
    try:
        while True:
            curve.append(next(work))
            yield curve[-1]
    except StopIteration as end:
        product: Product = end.value
    return _publish(stage, product, curve, bench, time.monotonic() - started, library)


def make_together(
    stages: Sequence[Stage],
    library: Library,
    every: float = SAVE_EVERY,
    leaving: Callable[[], bool] = _stays,
) -> Generator[list[Report], None, list[Record]]:
    """Make stages of one group whose parents are in the library in one pass, none of them there.

    Yields their reports of an epoch, in their order. Each lands as an artifact of its own, with
    its share of the seconds.

    Raises:
        Missing: a parent is not in the library (any more).
    """
    started = time.monotonic()
    parents = [[_parent(parent, library) for parent in stage.parents] for stage in stages]
    # Begins with a key of the search, so that a collector sees whose half-done work it is.
    name = f"{stages[0].key}-{fingerprint([stage.key for stage in stages])[:16]}"
    bench = Bench(pick_device(), LibrarySaves(library, name, every, leaving))
    curves: list[list[Report]] = [[] for _ in stages]
    first = stages[0].work
    work = first.run_together([stage.work for stage in stages], stages[0].data, parents, bench)
    try:
        while True:
            reports = next(work)
            for curve, report in zip(curves, reports, strict=True):
                curve.append(report)
            yield reports
    except StopIteration as end:
        products: list[Product] = end.value
    seconds = (time.monotonic() - started) / len(stages)
    records = [
        _publish(stage, product, curve, bench, seconds, library)
        for stage, product, curve in zip(stages, products, curves, strict=True)
    ]
    library.clear_scratch(name)
    return records


def _publish(
    stage: Stage,
    product: Product,
    curve: Sequence[Report],
    bench: Bench,
    seconds: float,
    library: Library,
) -> Record:
    payload, data = pack(product.tensors)
    record = Record(
        key=stage.key,
        name=stage.label,
        kind=stage.work.kind,
        identity=stage.identity,
        parents=tuple(parent.key for parent in stage.parents),
        payload=payload,
        figures={name: float(value) for name, value in product.figures.items()},
        curve=tuple(curve),
        facts={**product.facts, **_here(bench.device)},
        seconds=seconds,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    if bench.worker.leads:
        library.publish(record, data)
    return record


# A worker's own copies of opened parents, so that trial after trial need not read them again.
_OPENED: dict[str, Artifact] = {}
_MOST_OPENED = 16


def _parent(stage: Stage, library: Library) -> Artifact:
    if stage.key not in _OPENED:
        try:
            _OPENED[stage.key] = library.open(stage.key)
        except (Damaged, KeyError) as error:
            raise Missing(stage.key, f"{stage.label}: {error}") from None
        while len(_OPENED) > _MOST_OPENED:
            _OPENED.pop(next(iter(_OPENED)))
    return _OPENED[stage.key]


def make_all(
    stages: Iterable[Stage], library: Library, leaving: Callable[[], bool] = _stays
) -> Generator[tuple[Stage, Report], None, None]:
    """Make stages in this process, each after all it rests on; yields every report.

    A parent found damaged on the way is made again.
    """
    for stage in stages:
        for needed in stage.lineage():
            while True:
                try:
                    for report in make(needed, library, leaving=leaving):
                        yield needed, report
                    break
                except Missing as missing:
                    again = [s for s in needed.lineage() if s.key == missing.key]
                    yield from make_all(again, library, leaving)
