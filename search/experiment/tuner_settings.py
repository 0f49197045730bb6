"""Base classes and registries of samplers and schedulers.

The schema reads their names and settings, so the base classes are here. The plug-ins are in
``stillhouse.search.tuning``, which follows this package in the order of imports. As with methods
and stages, a registry knows its folder by name and imports a file when the file is looked up.
Plug-ins import Optuna and Ray only in the methods that build something.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo

from stillhouse.spaces.config.base import Config
from stillhouse.spaces.config.named import to_flat_form
from stillhouse.spaces.config.plugins import PluginRegistry


class TunerSettings(Config):
    """Settings of one plug-in; ``kind`` is the name of its file."""

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.kind = cls.__module__.rpartition(".")[2]


class SamplerConfig(TunerSettings):
    """What proposes configurations: an Optuna sampler with its settings."""

    is_grid: ClassVar[bool] = False
    """Whether every point of a grid is proposed once; Optuna's sampler then decides nothing."""
    refusals_before_random: ClassVar[int] = 10
    """Refused proposals in a row after which the next ones are drawn at random."""

    def build(self, seed: int, num_trials: int) -> Any:
        """An ``optuna.samplers.BaseSampler`` for a search of ``num_trials`` trials."""
        raise NotImplementedError


class SchedulerConfig(TunerSettings):
    """What stops hopeless trials early: a scheduler of Ray Tune with its settings."""

    def build(self, max_epochs: int) -> Any:
        """A ``ray.tune.schedulers.FIFOScheduler`` or a subclass that never pauses a trial.

        It counts by the result ``epoch``. No trial trains for more than ``max_epochs``.
        """
        raise NotImplementedError


SAMPLERS: PluginRegistry[SamplerConfig] = PluginRegistry(
    "stillhouse.search.tuning.samplers", SamplerConfig, "sampler"
)
SCHEDULERS: PluginRegistry[SchedulerConfig] = PluginRegistry(
    "stillhouse.search.tuning.schedulers", SchedulerConfig, "scheduler"
)

_SettingsT = TypeVar("_SettingsT", bound=TunerSettings)


def _parse(registry: PluginRegistry[_SettingsT], data: Any) -> _SettingsT:
    """Settings from a name, ``{name: {settings}}`` or ``{kind: name, **settings}``."""
    flat = to_flat_form(registry.label, registry.names(), allow_none=True)(data)
    if isinstance(flat, registry.base):
        return flat
    settings = dict(flat)
    name = settings.pop("kind")
    return registry.load(name).parse(settings, name)


def _sampler_to_plain(sampler: SamplerConfig, info: SerializationInfo) -> Any:
    settings = _settings_of(sampler, info)
    return {sampler.kind: settings} if settings else sampler.kind


def _scheduler_to_plain(scheduler: SchedulerConfig, info: SerializationInfo) -> Any:
    return {scheduler.kind: _settings_of(scheduler, info)}


def _settings_of(settings: TunerSettings, info: SerializationInfo) -> dict[str, Any]:
    return settings.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults)


Sampler = Annotated[
    SamplerConfig,
    BeforeValidator(lambda data: _parse(SAMPLERS, data)),
    PlainSerializer(_sampler_to_plain),
]
Scheduler = Annotated[
    SchedulerConfig,
    BeforeValidator(lambda data: _parse(SCHEDULERS, data)),
    PlainSerializer(_scheduler_to_plain),
]
