"""Facts of a data set that networks, records and reports need before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stillhouse.methods.core.data.base.decoded_source import DecodedSource
from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.base.splits import Split, Splits, SplitSpec
from stillhouse.methods.core.data.class_merging import check_classes, merged_class_names
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.text.decoded_texts import DecodedTexts
from stillhouse.methods.core.data.text.embedding_table import EmbeddingTable
from stillhouse.methods.core.data.text.text_source import TextSource
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Shape

_MAX_LISTED_NAMES = 5


@dataclass(frozen=True)
class DataFacts:
    """Facts of a data set.

    ``mean`` and ``std`` normalise images in 0..1, one value per channel. ``fingerprint`` identifies
    the content of the files, ``split_digest`` the splits. ``notes`` are sentences for the user
    about files and classes.
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
        fields = {k: v for k, v in asdict(self).items() if k != "notes"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def facts(config: DataConfig) -> DataFacts:
    """The facts; images are decoded only if mean and std are neither given nor published.

    For texts the first call on a machine also makes the vocabulary and the word vectors, so errors
    in them appear here.

    Raises:
        ConfigError: files are missing or damaged, or settings do not fit the images.
    """
    decoded = decoded_source(config)
    splits = decoded.splits(split_spec(config))
    if isinstance(decoded, DecodedTexts):
        decoded.embedding_table(split_spec(config))
    mean, std = _normalisation(config, decoded)
    names = merged_class_names(config, decoded.info.class_names)
    return DataFacts(
        shape=decoded.shape,
        classes=len(names),
        class_names=names,
        sizes=splits.sizes(),
        mean=mean,
        std=std,
        fingerprint=decoded.content_fingerprint,
        split_digest=splits.digest(),
        notes=(*decoded.source.notes(), *_notes(config, decoded, splits)),
    )


def _notes(config: DataConfig, decoded: DecodedSource, splits: Splits) -> Iterator[str]:
    names, labels = decoded.info.class_names, decoded.labels("train")
    if rare_names := [names[label] for label in labels[list(config.rare_training_rows())].tolist()]:
        yield (
            f"validation would hold out all examples of {len(rare_names)} rare classes; one of "
            f"each trains instead: {_format_names(rare_names)}"
        )
    classes_used = range(len(names)) if config.classes is None else config.classes
    classes_seen = set(np.unique(labels[splits.train]).tolist())
    if classes_unseen := [names[label] for label in classes_used if label not in classes_seen]:
        count = f"{len(classes_unseen)} of {len(classes_used)}"
        yield f"{count} classes have no training example: {_format_names(classes_unseen)}"


def _format_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED_NAMES} more" if len(names) > _MAX_LISTED_NAMES else ""
    return ", ".join(map(repr, names[:_MAX_LISTED_NAMES])) + more


def decoded_source(config: DataConfig) -> DecodedSource:
    """The decoded source of ``config``.

    Raises:
        ConfigError: the shift is as large as the images, a class is unknown, or a setting for
            images is set for texts.
    """
    _, source = config.named_source()
    if isinstance(source, TextSource) and (problems := tuple(_image_only_problems(config))):
        raise ConfigError(problems)
    decoded = cached_decoded_source(source, source.fingerprint(), config.resize)
    check_classes(config, len(decoded.info.class_names))
    min_side = min(decoded.shape[1:])
    if config.augment.crop >= min_side:
        message = f"must be less than the images' {min_side} pixels, found {config.augment.crop}"
        raise ConfigError([Problem("augment.crop", message)])
    return decoded


@lru_cache(maxsize=4)
def cached_decoded_source(source: Source, digest: str, resize: int | None) -> DecodedSource:
    """The decoded source for a content fingerprint; the last few stay open."""
    if isinstance(source, TextSource):
        return DecodedTexts(source, digest)
    return DecodedSource(source, digest, resize)


def embedding_table(config: DataConfig) -> EmbeddingTable:
    """The vocabulary and the word vectors of a set of texts.

    Raises:
        ConfigError: the set holds images.
    """
    decoded = decoded_source(config)
    if not isinstance(decoded, DecodedTexts):
        message = f"{config.named_source()[0]} holds images, and only texts have words"
        raise ConfigError([Problem("source", message)])
    return decoded.embedding_table(split_spec(config))


def embedding_space(config: DataConfig) -> str | None:
    """The name of the embedding space of texts; None for images."""
    return decoded_source(config).embedding_space(split_spec(config))


def _image_only_problems(config: DataConfig) -> Iterator[Problem]:
    """Settings that have no meaning for texts."""
    augment = config.augment
    for path, is_set in (
        ("resize", config.resize is not None),
        ("normalise", config.normalise is not None),
        *(
            (f"augment.{name}", getattr(augment, name))
            for name in ("flip", "crop", "cutout", "cutmix", "randaugment")
        ),
    ):
        if is_set:
            yield Problem(
                path, f"is for images, and {config.named_source()[0]} holds texts; leave it out"
            )


def split_spec(config: DataConfig) -> SplitSpec:
    """The split specification of ``config``."""
    limits = config.split_limits()
    arguments = (config.validation, limits.train, config.split_seed, config.classes)
    return SplitSpec(*arguments, validation_limit=limits.validation)


def _normalisation(
    config: DataConfig, decoded: DecodedSource
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if config.normalise is not None:
        return _check_channels(config.normalise.mean, config.normalise.std, decoded.shape[0])
    source_info = decoded.info
    if source_info.mean is not None and source_info.std is not None:
        return source_info.mean, source_info.std
    return decoded.channel_statistics(split_spec(config))


def _check_channels(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(mean) != channels:
        message = f"needs one value for each of {channels} channels, found {len(mean)}"
        raise ConfigError([Problem("normalise", message)])
    return mean, std
