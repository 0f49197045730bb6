"""The kinds of entry under ``stages:`` in an experiment; each is one file in ``search/stages``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.runtime.seeding import SEED_LIMIT
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.latency import LatencySettings


@dataclass(frozen=True)
class ExpandedStage:
    """An entry of an experiment, laid out: the stages that whoever names it learns from."""

    teaching_stages: tuple[Stage, ...]

    @property
    def stage(self) -> Stage:
        """The last one, the entry's own result."""
        return self.teaching_stages[-1]


class StageConfig(Config):
    """What an entry says. Subclasses lay it out as one stage or several."""

    do: str = setting("train", "kind of stage")
    data: dict[str, Any] | None = setting(
        None, "changes to the experiment's data for this stage alone"
    )
    seed: int = setting(0, "initialisation, order of examples, dropout", ge=0, lt=SEED_LIMIT)

    def dependencies(self) -> tuple[str, ...]:
        """Names of the entries it refers to."""
        return ()

    @property
    def is_reseeded(self) -> bool:
        """Whether a repetition over seeds makes it anew: what learns does, a teacher stays."""
        return bool(self.dependencies())

    def with_latency_settings(self, latency: LatencySettings) -> StageConfig:
        """The entry with how the experiment measures latency, where that is its business."""
        return self

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        """The stages this entry stands for.

        Raises:
            ConfigError: with paths relative to the entry.
        """
        raise NotImplementedError

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        """The domain written beside the field at ``path`` (relative to the entry), if any."""
        return None


STAGE_KINDS: PluginRegistry[StageConfig] = PluginRegistry(
    "stillhouse.search.stages", StageConfig, "kind of stage"
)
