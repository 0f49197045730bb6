"""Facts of a data set: what networks, records and reports need to know before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stillhouse.methods.core.data.base.decoded_source import Material
from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.base.splits import Cut, Split, Splits
from stillhouse.methods.core.data.class_merging import check_classes, merged_names
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.text.decoded_texts import TextMaterial
from stillhouse.methods.core.data.text.embedding_table import Lexicon
from stillhouse.methods.core.data.text.text_source import TextSource
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Shape

_MOST_NAMED = 5


@dataclass(frozen=True)
class DataFacts:
    """``mean`` and ``std`` are what networks normalise images in 0..1 with, one value a channel.

    ``fingerprint`` names the content of the files, ``split_digest`` which example is in which
    split. ``notes`` are sentences for the user about what was left out or decided on reading.
    """

    shape: Shape
    classes: int
    class_names: tuple[str, ...]
    sizes: dict[Split, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    split_digest: str
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON types, without the notes."""
        told = {k: v for k, v in asdict(self).items() if k != "notes"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in told.items()}


def facts(config: DataConfig) -> DataFacts:
    """The facts; images are decoded only where mean and std are neither given nor published.

    Of texts, words and vectors are made or read at the first call on this machine, as only so is
    it known that they can be.

    Raises:
        ConfigError: files are missing or damaged, or settings do not fit the images.
    """
    held = opened(config)
    splits = held.splits(cut(config))
    if isinstance(held, TextMaterial):
        held.lexicon(cut(config))
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
        notes=(*held.source.notes(), *_notes(config, held, splits)),
    )


def _notes(config: DataConfig, held: Material, splits: Splits) -> Iterator[str]:
    names, labels = held.facts.class_names, held.labels("train")
    if rare := [names[label] for label in labels[list(config.rare_examples())].tolist()]:
        yield (
            f"validation would hold out all examples of {len(rare)} rare classes; one of each "
            f"trains instead: {_some(rare)}"
        )
    wanted = range(len(names)) if config.classes is None else config.classes
    seen = set(np.unique(labels[splits.train]).tolist())
    if unseen := [names[label] for label in wanted if label not in seen]:
        yield f"{len(unseen)} of {len(wanted)} classes have no training example: {_some(unseen)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more


def opened(config: DataConfig) -> Material:
    """The material that ``config`` is about.

    Raises:
        ConfigError: the shift is as large as the images, a class that is not there, or a
            setting for images where there are texts.
    """
    _, source = config.origin()
    if isinstance(source, TextSource) and (problems := tuple(_for_images(config))):
        raise ConfigError(problems)
    held = material(source, source.fingerprint(), config.resize)
    check_classes(config, len(held.facts.class_names))
    side = min(held.shape[1:])
    if config.augment.crop >= side:
        message = f"must be less than the images' {side} pixels, found {config.augment.crop}"
        raise ConfigError([Problem("augment.crop", message)])
    return held


@lru_cache(maxsize=4)
def material(source: Source, digest: str, resize: int | None) -> Material:
    """The material of a source whose content has this fingerprint; the last few stay open."""
    if isinstance(source, TextSource):
        return TextMaterial(source, digest)
    return Material(source, digest, resize)


def lexicon(config: DataConfig) -> Lexicon:
    """The words of a set of texts and their vectors, which decide what networks see.

    Raises:
        ConfigError: the set holds images.
    """
    held = opened(config)
    if not isinstance(held, TextMaterial):
        message = f"{config.origin()[0]} holds images, and only texts have words"
        raise ConfigError([Problem("source", message)])
    return held.lexicon(cut(config))


def space(config: DataConfig) -> str | None:
    """Names the space of what networks see: of texts, their word vectors; none for images."""
    return opened(config).space(cut(config))


def _for_images(config: DataConfig) -> Iterator[Problem]:
    """Settings that say nothing to texts."""
    augment = config.augment
    for path, told in (
        ("resize", config.resize is not None),
        ("normalise", config.normalise is not None),
        *(
            (f"augment.{name}", getattr(augment, name))
            for name in ("flip", "crop", "cutout", "cutmix", "randaugment")
        ),
    ):
        if told:
            yield Problem(
                path, f"is for images, and {config.origin()[0]} holds texts; leave it out"
            )


def cut(config: DataConfig) -> Cut:
    """How ``config`` divides the training part."""
    limits = config.limits()
    held = (config.validation, limits.train, config.split_seed, config.classes)
    return Cut(*held, validation_limit=limits.validation)


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
