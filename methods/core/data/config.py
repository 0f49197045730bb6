"""DataConfig: which data, how it is split and varied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import field_validator, model_validator

from stillhouse.methods.core.data.augmentation.augment import Augment
from stillhouse.methods.core.data.base.rare_classes import rare_examples
from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.sources import resolve
from stillhouse.spaces.config.base import Config, knob
from stillhouse.spaces.config.normalisation import normalisation_fault


class Normalise(Config):
    """What networks subtract from images in 0..1 and divide them by, one value a channel."""

    mean: tuple[float, ...] = knob(..., "subtracted")
    std: tuple[float, ...] = knob(..., "divided by")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if wrong := normalisation_fault(self.mean, self.std):
            raise ValueError(wrong)
        return self


class Limits(Config):
    """How many examples of each split are used, every class alike; none means all."""

    train: int | None = knob(None, "examples to train on", ge=1)
    validation: int | None = knob(None, "held-out examples to judge by", ge=1)


class DataConfig(Config):
    """A data set and what is made of it. ``version`` rises with what splits and order mean."""

    version: ClassVar[int] = 1

    source: str | dict[str, dict[str, Any]] = knob(
        ..., "a name in sources/ (digits, cifar10, ...), or {name: {settings}}"
    )
    root: str | None = knob(None, "folder that holds the data set")
    download: bool = knob(False, "fetch what is missing, where the set can be fetched")
    validation: float = knob(
        0.1, "fraction of the training part held out, every class alike", ge=0.0, lt=1.0
    )
    split_seed: int = knob(0, "from which the held-out examples are drawn", ge=0)
    limit: int | Limits | None = knob(
        None,
        "train on so many examples only, every class alike; none means all; or {train: 1000, "
        "validation: 200}",
    )
    classes: tuple[int, ...] | None = knob(
        None, "only examples of these, in every split; classes keep their numbers"
    )
    merge: tuple[tuple[int, ...], ...] | None = knob(
        None, "classes that count as one, every class in one group; none means each alone"
    )
    resize: int | None = knob(None, "side in pixels to which images are scaled", ge=1)
    augment: Augment = knob(Augment(), "how training images are varied")
    normalise: Normalise | None = knob(
        None, "none means the published mean and std, else those of the training split"
    )
    resident_mb: int = knob(
        4096, "MiB up to which a set lies on the device; a larger one is streamed", ge=0
    )

    @field_validator("source")
    @classmethod
    def _known(cls, value: Any) -> Any:
        resolve(value)
        return value

    @field_validator("limit", mode="before")
    @classmethod
    def _counted(cls, limit: Any) -> Any:
        if isinstance(limit, Mapping):
            limit = Limits.parse(limit)
        if isinstance(limit, Limits):
            # Without a limit of the validation split it is the plain form, under the same key.
            return limit.train if limit.validation is None else limit
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ValueError(
                f"needs a whole number from 1 up, or {{train: ..., validation: ...}}, "
                f"found {limit!r}"
            )
        return limit

    @field_validator("classes")
    @classmethod
    def _some(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is not None and (len(set(classes)) < len(classes) or not classes):
            raise ValueError(f"needs a class or more, each once, found {list(classes)}")
        return classes if classes is None else tuple(sorted(classes))

    @field_validator("merge")
    @classmethod
    def _groups(cls, merge: tuple[tuple[int, ...], ...] | None) -> Any:
        if merge is not None and (len(merge) < 2 or not all(merge)):
            found = [list(group) for group in merge]
            raise ValueError(f"needs two groups of classes or more, found {found}")
        return merge if merge is None else tuple(tuple(sorted(group)) for group in merge)

    def origin(self) -> tuple[str, Source]:
        """The source's name and the source, with this set's ``root`` and ``download``."""
        return resolve(self.source, root=self.root, download=self.download)

    def identity(self) -> dict[str, Any]:
        """The plain data that decides every batch; where the files lie is not in it.

        Cheap: files are hashed and labels are read once a process, no image is decoded. With
        ``download`` this is where missing files are fetched.

        Raises:
            ConfigError: files are missing or labels are damaged; the message names the files.
        """
        name, source = self.origin()
        elsewhere = {"source", "root", "download", "resident_mb"}
        # As it was called when there was nothing else.
        elsewhere |= {name for name in ("classes", "merge") if getattr(self, name) is None}
        return {
            **{key: value for key, value in self.plain().items() if key not in elsewhere},
            # Only where it makes a difference, as others keep their names.
            **({"rare": "train"} if self.rare_examples() else {}),
            "augment": self.augment.identity(),
            "version": self.version,
            "source": {name: source.identity()},
        }

    def rare_examples(self) -> tuple[int, ...]:
        """The rows that train so that every class does, see ``splits.kept_to_train``."""
        _, source = self.origin()
        return rare_examples(source, source.fingerprint(), self.validation, self.split_seed)

    def limits(self) -> Limits:
        """``limit`` in its long form."""
        return self.limit if isinstance(self.limit, Limits) else Limits(train=self.limit)

    def judged_on(self) -> dict[str, Any]:
        """What of the identity decides the images and labels of the validation split."""
        trained_on = {"limit", "augment", "normalise"}
        judged = {k: v for k, v in self.identity().items() if k not in trained_on}
        limit = self.limits().validation
        return judged if limit is None else {**judged, "validation_limit": limit}
