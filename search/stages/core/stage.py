"""A stage: one expensive step, fully decided, with the key under which its result is kept."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.runtime.communication import ALONE, Worker
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.spaces.config.base import Config, fingerprint

Report = dict[str, float]
"""One epoch's figures, flat: ``epoch``, ``train_loss``, ``val_accuracy``, ..."""


COSTS = frozenset(("parameters", "flops", "bytes"))
"""Figures of every network."""
APART = 1000
"""Between the seeds of works made again: repetitions over seeds take those right beside."""


@dataclass(frozen=True)
class Product:
    """What a stage hands over when it is done."""

    tensors: Mapping[str, Tensor]
    figures: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Saves(Protocol):
    """Where a stage keeps its half-done state, so that it resumes at an epoch."""

    def load(self) -> dict[str, Tensor] | None: ...

    def due(self) -> bool: ...

    def store(self, tensors: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Bench:
    """Where a stage works: nothing here may change its result beyond the device's rounding."""

    device: torch.device
    saves: Saves | None = None
    worker: Worker = ALONE
    """One of the :attr:`Work.workers` that make it together."""


class Work(Config):
    """What a stage does: its settings, and how it runs. ``version`` rises with its mathematics."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = ""
    makes_network: ClassVar[bool] = False
    """Whether what is made can teach, be cut, or be started from."""
    makes_images: ClassVar[bool] = False
    """Whether what is made can be trained on: ``images`` and ``labels`` among its tensors."""
    soft_labels: ClassVar[bool] = False
    """Whether those labels are soft, and steps to take on them come along: ``rates``."""
    uses_data: ClassVar[bool] = True
    """Whether the data set has a part in the result."""

    def identity(self) -> dict[str, Any]:
        """The plain data that decides the result, parents and data set apart.

        Raises:
            ConfigError: a file that belongs to it is missing.
        """
        return self.plain()

    def again(self, number: int) -> Work | None:
        """The same work from other random choices, others for every ``number`` from 1 up; none
        where it makes no choice at random."""
        return None

    def split(self, subclasses: int, added: Mapping[str, Any]) -> Work | None:
        """The same work on a network that splits every class into so many, with methods
        ``added`` to its objective; none where it has no such network of its own to teach."""
        return None

    @property
    def subclasses(self) -> int | None:
        """Into how many subclasses its network splits every class; none: as its first parent's."""
        return None

    @property
    def goes_on(self) -> bool:
        """Whether it goes on from the weights of its first parent."""
        return False

    @property
    def epochs(self) -> int:
        """How many reports the work yields."""
        return 1

    @property
    def workers(self) -> int:
        """Over how many processes it is spread; the result is that of one."""
        return 1

    @property
    def together(self) -> str:
        """Stages of one kind, with the same first parent and data set if they have any, that say
        the same here may be made in one pass by :meth:`run_together`; empty where each is made
        alone."""
        return ""

    @classmethod
    def run_together(
        cls,
        works: Sequence[Work],
        data: DataConfig,
        parents: Sequence[Sequence[Artifact]],
        bench: Bench,
    ) -> Generator[list[Report], None, list[Product]]:
        """:meth:`run` for several: yield their reports of an epoch, then return their products.

        One after the other, with one report at the end, where a kind knows nothing better.
        """
        made = [_drained(w.run(data, p, bench)) for w, p in zip(works, parents, strict=True)]
        yield [report for report, _ in made]
        return [product for _, product in made]

    def result_so_far(self, curve: Sequence[Report]) -> Report:
        """The report that holds the figures of what would be kept if it ended now.

        Args:
            curve: the reports so far, one at least.
        """
        return curve[-1]

    def figures(self, stage: Stage) -> frozenset[str]:
        """Names of the figures that the record of ``stage``, whose work this is, will hold.

        Known before anything runs. A goal or a limit can name those of the last stage.
        """
        raise NotImplementedError

    def costs(self, data: DataConfig) -> dict[str, float]:
        """What is known before running: ``parameters``, ``flops``, ``bytes``."""
        return {}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        """Yield a report an epoch, then return what was made."""
        raise NotImplementedError


def _drained(running: Generator[Report, None, Product]) -> tuple[Report, Product]:
    """The last report of a work, and what it made."""
    report: Report = {}
    while True:
        try:
            report = next(running)
        except StopIteration as end:
            return report, end.value


@dataclass(frozen=True)
class Stage:
    """Work on data with the results of other stages. ``label`` is for people, not in the key."""

    label: str
    work: Work
    data: DataConfig
    parents: tuple[Stage, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, as plain data."""
        return {
            "kind": self.work.kind,
            "version": self.work.version,
            "work": self.work.identity(),
            "data": self.data.identity() if self.work.uses_data else None,
            "parents": [parent.key for parent in self.parents],
        }

    @cached_property
    def key(self) -> str:
        """sha256 (hexadecimal) of the identity: known before anything runs."""
        return fingerprint(self.identity)

    @property
    def subclasses(self) -> int:
        """Into how many subclasses its network splits every class; 1: into none."""
        found = self.work.subclasses
        if found is None:
            return self.parents[0].subclasses if self.parents else 1
        return found

    @property
    def figures(self) -> frozenset[str]:
        """Names of the figures that its record will hold."""
        return self.work.figures(self)

    @property
    def group(self) -> str:
        """Stages that say the same here may be made in one pass; empty where made alone."""
        if not self.work.together:
            return ""
        first = self.parents[0].key if self.parents else ""
        data = fingerprint(self.data.identity()) if self.work.uses_data else ""
        return f"{self.work.kind} {first} {data} {self.work.together}"

    def descent(self) -> Iterator[Stage]:
        """This stage, the one whose network it goes on from, that one's, and so on."""
        yield self
        if self.work.goes_on:
            yield from self.parents[0].descent()

    def lineage(self) -> Iterator[Stage]:
        """This stage and all it rests on, each once, parents first."""
        seen: set[str] = set()
        yield from self._walk(seen)

    def _walk(self, seen: set[str]) -> Iterator[Stage]:
        if self.key in seen:
            return
        seen.add(self.key)
        for parent in self.parents:
            yield from parent._walk(seen)
        yield self
