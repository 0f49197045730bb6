"""Making a stage, wherever one is: here in this process, in a Ray task, or in a trial."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

import torch
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
"""Seconds between two saves of a half-done stage."""
MAX_BATCH_SIZE = 64
"""Stages made in one pass."""


def _never_draining() -> bool:
    return False


@dataclass
class LibraryCheckpointer:
    """Keeps a stage's half-done state in the library's scratch, every ``interval_s`` seconds."""

    library: Library
    key: str
    interval_s: float = SAVE_INTERVAL_S
    is_draining: Callable[[], bool] = _never_draining
    """Whether this machine is about to be taken away: every epoch is saved then."""
    _last_saved: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Tensor] | None:
        return self.library.load_scratch(self.key)

    def is_due(self) -> bool:
        return time.monotonic() - self._last_saved >= self.interval_s or self.is_draining()

    def save(self, tensors: dict[str, Tensor]) -> None:
        self.library.save_scratch(self.key, tensors)
        self._last_saved = time.monotonic()


class MissingInput(RuntimeError):
    """A parent that was in the library is there no more: ``key`` is to be made again."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key

    def __reduce__(self) -> tuple[type[MissingInput], tuple[str, str]]:
        return type(self), (self.key, str(self))


def pick_device() -> torch.device:
    """The device this process was given."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_stage(
    stage: Stage,
    library: Library,
    save_interval_s: float = SAVE_INTERVAL_S,
    is_draining: Callable[[], bool] = _never_draining,
    communicator: Communicator = SINGLE_PROCESS,
) -> Generator[EpochMetrics, None, Record]:
    """Make one stage whose parents are in the library; yields its reports.

    If the stage is there already, its last report comes again and nothing is run. ``communicator``
    is one of those that make it together; the leading one publishes it.

    Raises:
        Missing: a parent is not in the library (any more).
    """
    record = communicator.broadcast(library.record(stage.key))
    if record is not None:
        yield dict(record.curve[-1]) if record.curve else {}
        return record
    started = time.monotonic()
    parents = [_open_parent(parent, library) for parent in stage.parents]
    context = StageContext(
        pick_device(),
        LibraryCheckpointer(library, stage.key, save_interval_s, is_draining),
        communicator,
    )
    curve: list[EpochMetrics] = []
    run = stage.operation.run(stage.data, parents, context)
    try:
        while True:
            curve.append(next(run))
            yield curve[-1]
    except StopIteration as stop:
        result: StageResult = stop.value
    return _publish(stage, result, curve, context, time.monotonic() - started, library)


def build_batch(
    stages: Sequence[Stage],
    library: Library,
    save_interval_s: float = SAVE_INTERVAL_S,
    is_draining: Callable[[], bool] = _never_draining,
) -> Generator[list[EpochMetrics], None, list[Record]]:
    """Make stages of one group whose parents are in the library in one pass, none of them there.

    Yields their reports of an epoch, in their order. Each lands as an artifact of its own, with
    its share of the seconds.

    Raises:
        Missing: a parent is not in the library (any more).
    """
    started = time.monotonic()
    parents = [[_open_parent(parent, library) for parent in stage.parents] for stage in stages]
    # Begins with a key of the search, so that a collector sees whose half-done work it is.
    batch_name = f"{stages[0].key}-{fingerprint([stage.key for stage in stages])[:16]}"
    context = StageContext(
        pick_device(), LibraryCheckpointer(library, batch_name, save_interval_s, is_draining)
    )
    curves: list[list[EpochMetrics]] = [[] for _ in stages]
    first = stages[0].operation
    assert isinstance(first, BatchOperation)
    run = first.run_batch([stage.operation for stage in stages], stages[0].data, parents, context)
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
    library.clear_scratch(batch_name)
    return records


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


# A worker's own copies of opened parents, so that trial after trial need not read them again.
_OPEN_ARTIFACTS: dict[str, Artifact] = {}
_MAX_OPEN_ARTIFACTS = 16


def _open_parent(stage: Stage, library: Library) -> Artifact:
    if stage.key not in _OPEN_ARTIFACTS:
        try:
            _OPEN_ARTIFACTS[stage.key] = library.open_artifact(stage.key)
        except (CorruptArtifact, KeyError) as error:
            raise MissingInput(stage.key, f"{stage.label}: {error}") from None
        while len(_OPEN_ARTIFACTS) > _MAX_OPEN_ARTIFACTS:
            _OPEN_ARTIFACTS.pop(next(iter(_OPEN_ARTIFACTS)))
    return _OPEN_ARTIFACTS[stage.key]


def build_stages(
    stages: Iterable[Stage], library: Library, is_draining: Callable[[], bool] = _never_draining
) -> Generator[tuple[Stage, EpochMetrics], None, None]:
    """Make stages in this process, each after all it rests on; yields every report.

    A parent found damaged on the way is made again.
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
