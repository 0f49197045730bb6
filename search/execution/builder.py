"""Build a stage: in this process, in a Ray task, or in a trial."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from cachetools import LRUCache
from torch import Tensor

from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import CorruptArtifact, Library, serialise_tensors
from stillhouse.search.core.provenance import _here
from stillhouse.search.stages.core.stage import (
    BatchOperation,
    EpochMetrics,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.config.base import fingerprint

SAVE_INTERVAL_S = 20.0
"""Seconds between two checkpoints of a stage."""
MAX_BATCH_SIZE = 64
"""Stages that are built in one pass."""


def _never_draining() -> bool:
    return False


@dataclass
class LibraryCheckpointer:
    """Saves the state of an unfinished stage in the library, every ``interval_s`` seconds."""

    library: Library
    key: str
    interval_s: float = SAVE_INTERVAL_S
    is_draining: Callable[[], bool] = _never_draining
    """Whether this machine is about to be taken away; if so, every epoch is saved."""
    _last_saved: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Tensor] | None:
        return self.library.load_scratch(self.key)

    def is_due(self) -> bool:
        return time.monotonic() - self._last_saved >= self.interval_s or self.is_draining()

    def save(self, tensors: dict[str, Tensor]) -> None:
        self.library.save_scratch(self.key, tensors)
        self._last_saved = time.monotonic()


class MissingInput(RuntimeError):
    """A parent, ``key``, is no longer in the library and must be built again."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key

    def __reduce__(self) -> tuple[type[MissingInput], tuple[str, str]]:
        return type(self), (self.key, str(self))


def pick_device() -> torch.device:
    """The device that this process may use."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_stage(
    stage: Stage,
    library: Library,
    save_interval_s: float = SAVE_INTERVAL_S,
    is_draining: Callable[[], bool] = _never_draining,
    communicator: Communicator = SINGLE_PROCESS,
) -> Generator[EpochMetrics, None, Record]:
    """Build one stage, as ``build_batch`` does; yields its metrics of each epoch."""
    build = build_batch([stage], library, save_interval_s, is_draining, communicator)
    while True:
        try:
            yield next(build)[0]
        except StopIteration as stop:
            record: Record = stop.value[0]
            return record


def build_batch(
    stages: Sequence[Stage],
    library: Library,
    save_interval_s: float = SAVE_INTERVAL_S,
    is_draining: Callable[[], bool] = _never_draining,
    communicator: Communicator = SINGLE_PROCESS,
) -> Generator[list[EpochMetrics], None, list[Record]]:
    """Build one stage, or several of one batch key in one pass; returns their records.

    Yields the metrics of each epoch, in the order of the stages. If all stages are in the library,
    it yields their last metrics and runs nothing. Several stages share the seconds equally.

    Args:
        stages: their parents are in the library.
        communicator: of one of the processes that build a single stage together.

    Raises:
        MissingInput: a parent is not in the library.
    """
    existing = communicator.broadcast(_existing_records(stages, library))
    if existing:
        yield [dict(record.curve[-1]) if record.curve else {} for record in existing]
        return existing
    started = time.monotonic()
    operation, data = stages[0].operation, stages[0].data
    parents = [[_open_parent(parent, library) for parent in stage.parents] for stage in stages]
    scratch_key = stages[0].key  # a collector finds the run by this key
    if len(stages) > 1:
        scratch_key += f"-{fingerprint([stage.key for stage in stages])[:16]}"
    checkpointer = LibraryCheckpointer(library, scratch_key, save_interval_s, is_draining)
    context = StageContext(pick_device(), checkpointer, communicator)
    if len(stages) > 1:
        assert isinstance(operation, BatchOperation)
        run = operation.run_batch([stage.operation for stage in stages], data, parents, context)
    else:
        run = _as_batch(operation.run(data, parents[0], context))
    curves: list[list[EpochMetrics]] = [[] for _ in stages]
    try:
        while True:
            reports = next(run)
            for curve, report in zip(curves, reports, strict=True):
                curve.append(report)
            yield reports
    except StopIteration as stop:
        results: list[StageResult] = stop.value
    seconds = (time.monotonic() - started) / len(stages)
    records = [
        _publish(stage, result, curve, context, seconds, library)
        for stage, result, curve in zip(stages, results, curves, strict=True)
    ]
    if len(stages) > 1:  # publishing a stage clears its own checkpoint only
        library.clear_scratch(scratch_key)
    return records


def build_messages(
    stages: Sequence[Stage], library: Library, is_draining: Callable[[], bool]
) -> Iterator[list[EpochMetrics] | list[Record]]:
    """The metrics of each epoch, and last the records: Ray drops what a generator returns."""
    yield (yield from build_batch(stages, library, SAVE_INTERVAL_S, is_draining))


def build_stages(
    stages: Iterable[Stage], library: Library, is_draining: Callable[[], bool] = _never_draining
) -> Generator[tuple[Stage, EpochMetrics], None, None]:
    """Build stages and their ancestors in this process, parents first; yields all metrics.

    A parent that turns out to be damaged is built again.
    """
    for stage in stages:
        for needed in stage.ancestors():
            while True:
                try:
                    for report in build_stage(needed, library, is_draining=is_draining):
                        yield needed, report
                    break
                except MissingInput as missing:
                    lost_parents = [s for s in needed.ancestors() if s.key == missing.key]
                    yield from build_stages(lost_parents, library, is_draining)


def _existing_records(stages: Sequence[Stage], library: Library) -> list[Record]:
    """The records of all stages; empty if one is missing."""
    records: list[Record] = []
    for stage in stages:
        record = library.record(stage.key)
        if record is None:
            return []
        records.append(record)
    return records


def _as_batch(
    run: Generator[EpochMetrics, None, StageResult],
) -> Generator[list[EpochMetrics], None, list[StageResult]]:
    while True:
        try:
            yield [next(run)]
        except StopIteration as stop:
            return [stop.value]


def _publish(
    stage: Stage,
    result: StageResult,
    curve: Sequence[EpochMetrics],
    context: StageContext,
    seconds: float,
    library: Library,
) -> Record:
    payload, data = serialise_tensors(result.tensors)
    record = Record(
        key=stage.key,
        name=stage.label,
        kind=stage.operation.kind,
        identity=stage.identity,
        parents=tuple(parent.key for parent in stage.parents),
        payload=payload,
        figures={name: float(value) for name, value in result.metrics.items()},
        curve=tuple(curve),
        facts={**result.metadata, **_here(context.device)},
        seconds=seconds,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    if context.communicator.is_rank_zero:
        library.publish(record, data)
    return record


_OPEN_ARTIFACTS: LRUCache[str, Artifact] = LRUCache(maxsize=16)
"""The parents that this process has opened; the next trials often need the same."""


def _open_parent(stage: Stage, library: Library) -> Artifact:
    artifact = _OPEN_ARTIFACTS.get(stage.key)
    if artifact is None:
        try:
            artifact = _OPEN_ARTIFACTS[stage.key] = library.open_artifact(stage.key)
        except (CorruptArtifact, KeyError) as error:
            raise MissingInput(stage.key, f"{stage.label}: {error}") from None
    return artifact
