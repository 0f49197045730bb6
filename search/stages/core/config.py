"""The kinds of entry under ``stages:`` in an experiment; each is one file in ``search/stages``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.runtime.seeding import SEEDS
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.base import Config, knob
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.plugins import Folder
from stillhouse.spaces.latency import LatencySettings


@dataclass(frozen=True)
class Entry:
    """An entry of an experiment, laid out: the stages that whoever names it learns from."""

    members: tuple[Stage, ...]

    @property
    def stage(self) -> Stage:
        """The last one, the entry's own result."""
        return self.members[-1]


class Kind(Config):
    """What an entry says. Subclasses lay it out as one stage or several."""

    do: str = knob("train", "kind of stage")
    data: dict[str, Any] | None = knob(
        None, "changes to the experiment's data for this stage alone"
    )
    seed: int = knob(0, "initialisation, order of examples, dropout", ge=0, lt=SEEDS)

    def needs(self) -> tuple[str, ...]:
        """Names of the entries it refers to."""
        return ()

    @property
    def repeated(self) -> bool:
        """Whether a repetition over seeds makes it anew: what learns does, a teacher stays."""
        return bool(self.needs())

    def timed_by(self, latency: LatencySettings) -> Kind:
        """The entry with how the experiment measures latency, where that is its business."""
        return self

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        """The stages this entry stands for.

        Raises:
            ConfigError: with paths relative to the entry.
        """
        raise NotImplementedError

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        """The domain written beside the field at ``path`` (relative to the entry), if any."""
        return None


KINDS: Folder[Kind] = Folder("stillhouse.search.stages", Kind, "kind of stage")
