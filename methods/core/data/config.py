"""Settings of a data set, its splits and its augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import field_validator, model_validator

from stillhouse.methods.core.data.augmentation.augment import Augment
from stillhouse.methods.core.data.base.rare_classes import rare_training_rows
from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.sources import resolve
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.normalisation import normalisation_error


class Normalise(Config):
    """Mean and standard deviation for the normalisation of images in 0..1, per channel."""

    mean: tuple[float, ...] = setting(..., "subtracted")
    std: tuple[float, ...] = setting(..., "divided by")

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if wrong := normalisation_error(self.mean, self.std):
            raise ValueError(wrong)
        return self


class SplitLimits(Config):
    """The number of examples of each split, stratified; none means all."""

    train: int | None = setting(None, "examples to train on", ge=1)
    validation: int | None = setting(None, "validation examples", ge=1)


class DataConfig(Config):
    """Settings of a data set. Raise ``version`` if equal settings give other splits or orders."""

    version: ClassVar[int] = 1

    source: str | dict[str, dict[str, Any]] = setting(
        ..., "a name in sources/ (digits, cifar10, ...), or {name: {settings}}"
    )
    root: str | None = setting(None, "folder that holds the data set")
    download: bool = setting(False, "fetch what is missing, where the set can be fetched")
    validation: float = setting(
        0.1, "fraction of the training part for validation, stratified by class", ge=0.0, lt=1.0
    )
    split_seed: int = setting(0, "seed of the validation split", ge=0)
    limit: int | SplitLimits | None = setting(
        None,
        "number of training examples, stratified by class; none means all; or {train: 1000, "
        "validation: 200}",
    )
    classes: tuple[int, ...] | None = setting(
        None, "only examples of these, in every split; classes keep their numbers"
    )
    merge: tuple[tuple[int, ...], ...] | None = setting(
        None, "classes that count as one, every class in one group; none means each alone"
    )
    resize: int | None = setting(None, "side in pixels to which images are scaled", ge=1)
    augment: Augment = setting(Augment(), "how training images are varied")
    normalise: Normalise | None = setting(
        None, "none means the published mean and std, else those of the training split"
    )
    resident_mb: int = setting(
        4096, "largest set in MiB that is copied to the device; larger ones are streamed", ge=0
    )

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: Any) -> Any:
        resolve(value)
        return value

    @field_validator("limit", mode="before")
    @classmethod
    def _parse_limit(cls, limit: Any) -> Any:
        if isinstance(limit, Mapping):
            limit = SplitLimits.parse(limit)
        if isinstance(limit, SplitLimits):
            # Without a validation limit both forms have the same stage key.
            return limit.train if limit.validation is None else limit
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ValueError(
                f"needs a whole number from 1 up, or {{train: ..., validation: ...}}, "
                f"found {limit!r}"
            )
        return limit

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is not None and (len(set(classes)) < len(classes) or not classes):
            raise ValueError(f"needs a class or more, each once, found {list(classes)}")
        return classes if classes is None else tuple(sorted(classes))

    @field_validator("merge")
    @classmethod
    def _sorted_groups(cls, merge: tuple[tuple[int, ...], ...] | None) -> Any:
        if merge is not None and (len(merge) < 2 or not all(merge)):
            groups = [list(group) for group in merge]
            raise ValueError(f"needs two groups of classes or more, found {groups}")
        return merge if merge is None else tuple(tuple(sorted(group)) for group in merge)

    def named_source(self) -> tuple[str, Source]:
        """The source's name and the source, with this set's ``root`` and ``download``."""
        return resolve(self.source, root=self.root, download=self.download)

    def identity(self) -> dict[str, Any]:
        """The plain data that decides all batches; the folder of the files is not part of it.

        Files are hashed and labels are read once per process; no image is decoded. With
        ``download`` this call downloads missing files.

        Raises:
            ConfigError: files are missing or labels are damaged; the message names the files.
        """
        name, source = self.named_source()
        excluded = {"source", "root", "download", "resident_mb"}
        # Added later; at their defaults they are left out of the stage key.
        excluded |= {name for name in ("classes", "merge") if getattr(self, name) is None}
        return {
            **{key: value for key, value in self.plain().items() if key not in excluded},
            # Only if it changes a split; otherwise the stage key stays.
            **({"rare": "train"} if self.rare_training_rows() else {}),
            "augment": self.augment.identity(),
            "version": self.version,
            "source": {name: source.identity()},
        }

    def rare_training_rows(self) -> tuple[int, ...]:
        """The rows of ``splits.rows_kept_for_training``."""
        _, source = self.named_source()
        return rare_training_rows(source, source.fingerprint(), self.validation, self.split_seed)

    def split_limits(self) -> SplitLimits:
        """``limit`` in its long form."""
        return self.limit if isinstance(self.limit, SplitLimits) else SplitLimits(train=self.limit)

    def validation_identity(self) -> dict[str, Any]:
        """The part of the identity that decides the validation split."""
        training_only = {"limit", "augment", "normalise"}
        identity = {k: v for k, v in self.identity().items() if k not in training_only}
        limit = self.split_limits().validation
        return identity if limit is None else {**identity, "validation_limit": limit}
