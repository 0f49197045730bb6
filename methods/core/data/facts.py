"""Facts of a data set: what networks, records and reports need to know before training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from methods.core.data.config import DataConfig
from methods.core.data.material import Material, material
from methods.core.data.merging import check_classes, merged_names
from methods.core.data.splits import Cut, Split
from spaces.network import Shape
from spaces.problem import ConfigError, Problem


@dataclass(frozen=True)
class DataFacts:
    """``mean`` and ``std`` are what networks normalise images in 0..1 with, one value a channel.

    ``fingerprint`` names the content of the files, ``split_digest`` which example is in which
    split.
    """

    shape: Shape
    classes: int
    class_names: tuple[str, ...]
    sizes: dict[Split, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    split_digest: str

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def facts(config: DataConfig) -> DataFacts:
    """The facts; images are decoded only where mean and std are neither given nor published.

    Raises:
        ConfigError: files are missing or damaged, or settings do not fit the images.
    """
    held = opened(config)
    splits = held.splits(cut(config))
    mean, std = _normalisation(config, held)
    names = merged_names(config, held.facts.class_names)
    return DataFacts(
        shape=held.shape,
        classes=len(names),
        class_names=names,
        sizes=splits.sizes(),
        mean=mean,
        std=std,
        fingerprint=held.digest,
        split_digest=splits.digest(),
    )


def opened(config: DataConfig) -> Material:
    """The material that ``config`` is about.

    Raises:
        ConfigError: the shift is as large as the images, or a class that is not there.
    """
    _, source = config.origin()
    held = material(source, source.fingerprint(), config.resize)
    check_classes(config, len(held.facts.class_names))
    side = min(held.shape[1:])
    if config.augment.crop >= side:
        message = f"must be less than the images' {side} pixels, found {config.augment.crop}"
        raise ConfigError([Problem("augment.crop", message)])
    return held


def cut(config: DataConfig) -> Cut:
    """How ``config`` divides the training part."""
    return Cut(config.validation, config.limit, config.split_seed, config.classes)


def _normalisation(
    config: DataConfig, held: Material
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if config.normalise is not None:
        return _fitting(config.normalise.mean, config.normalise.std, held.shape[0])
    known = held.facts
    if known.mean is not None and known.std is not None:
        return known.mean, known.std
    return held.moments(cut(config))


def _fitting(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(mean) != channels:
        message = f"needs one value for each of {channels} channels, found {len(mean)}"
        raise ConfigError([Problem("normalise", message)])
    return mean, std
