"""Configuration of a stage: an entry of ``stages:``; each kind is a file in ``search/stages``."""

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
    """The stages of one entry that teach whoever names the entry as a teacher."""

    teaching_stages: tuple[Stage, ...]

    @property
    def stage(self) -> Stage:
        """The last one, which has the result of the entry."""
        return self.teaching_stages[-1]


class StageConfig(Config):
    """Settings of an entry. Each subclass expands to one stage or several."""

    do: str = setting("train", "kind of stage")
    data: dict[str, Any] | None = setting(
        None, "changes to the experiment's data for this stage only"
    )
    seed: int = setting(
        0, "seed of initialisation, order of examples, dropout", ge=0, lt=SEED_LIMIT
    )

    def dependencies(self) -> tuple[str, ...]:
        """Names of the entries that it refers to."""
        return ()

    @property
    def is_reseeded(self) -> bool:
        """True if repetitions retrain this entry with a new seed; teachers are shared."""
        return bool(self.dependencies())

    def with_latency_settings(self, latency: LatencySettings) -> StageConfig:
        """The entry with the latency settings of the experiment, if it measures latency."""
        return self

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        """Expand the entry to its stages.

        Raises:
            ConfigError: with paths relative to the entry.
        """
        raise NotImplementedError

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        """The domain declared for the field at ``path`` (relative to the entry), if any."""
        return None


STAGE_KINDS: PluginRegistry[StageConfig] = PluginRegistry(
    "stillhouse.search.stages", StageConfig, "kind of stage"
)
