"""Settings of dataset distillation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Choice, Integers, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem

MAX_REPORTS = 40
"""Largest number of epochs of a run; each has an equal share of the iterations."""


class Distilling(Config):
    """Settings of the synthetic examples and of their optimisation.

    Defaults are those of Sucholutsky and Schonlau 2021 for MNIST and LeNet, except ``clip``.
    """

    examples: int = setting(
        10, "that each step learns from; fewer than classes will do", Integers(1, 50), ge=1
    )
    steps: int = setting(1, "each with examples of its own", Integers(1, 10), ge=1)
    passes: int = setting(3, "over the steps, each at step sizes of its own", Integers(1, 5), ge=1)
    rate: float = setting(0.01, "every step's size at first", LogUniform(1e-3, 2.0), gt=0.0)
    classes: tuple[int, ...] | None = setting(
        None, "that the labels of a step begin with, in turn; none means 0, 1, 2 ..."
    )
    images: Literal["learnt", "real", "means", "centres"] = setting(
        "learnt",
        "learnt from noise; or left as they are: real ones, class means, k-means centres",
        Choice(("learnt", "real", "means", "centres")),
    )
    image_start: Literal["noise", "real", "means", "centres"] = setting(
        "noise",
        "initial values of learnt images: noise, or images from the training split",
        Choice(("noise", "real", "means", "centres")),
    )
    labels: Literal["soft", "softmax", "hard"] = setting(
        "soft",
        "learnt as they stand or through a softmax; hard: one-hot, not learnt (Wang et al. 2018)",
        Choice(("soft", "softmax", "hard")),
    )
    label_start: Literal["one_hot", "smoothed", "uniform", "normal", "zeros"] = setting(
        "one_hot",
        "initial values of learnt labels; smoothed: a tenth spread over all classes; uniform, "
        "normal: random",
        Choice(("one_hot", "smoothed", "uniform", "normal", "zeros")),
    )
    label_scale: float = setting(
        1.0, "multiplies the initial labels", LogUniform(1.0, 10.0), gt=0.0
    )
    start: Literal["fixed", "random"] = setting(
        "fixed", "the one network of the seed, or fresh networks every iteration"
    )
    networks: int = setting(4, "fresh networks at once, where start: random", Integers(1, 16), ge=1)
    judged_on: int = setting(20, "fresh networks in the end, where start: random", ge=2)
    iterations: int = setting(20_000, "of Adam, a real batch each", Integers(1_000, 40_000), ge=1)
    batch_size: int = setting(1024, "real examples of a batch", ge=1)
    lr: float = setting(0.01, "of Adam, betas 0.5 and 0.999", LogUniform(1e-3, 0.1), gt=0.0)
    clip: float | None = setting(
        0.5,
        "largest norm of the gradient; a rare huge gradient of several steps would disturb Adam "
        "for hundreds of iterations; null: as published",
        gt=0.0,
    )
    halvings: int = setting(9, "of lr, evenly spaced", Integers(0, 12), ge=0)
    keep: Literal["last", "best"] = setting(
        "last", "the epoch whose examples are the result; best: by validation accuracy"
    )

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, classes: Any) -> Any:
        if classes is not None and (len(set(classes)) < len(classes) or not classes):
            raise ValueError(f"needs a class or more, each once, found {list(classes)}")
        return classes

    def lr_at(self, iteration: int) -> float:
        """Adam's learning rate at an iteration (from 0), halved after every full share of them."""
        return float(self.lr * 0.5 ** (iteration * (self.halvings + 1) // self.iterations))

    @property
    def divergence_remedy(self) -> str:
        """The end of the message for a loss that is not finite."""
        advice = f"try a smaller lr than {self.lr:g} or a smaller rate, or set clip"
        return f"distillation diverged; {advice}"

    def check_split(self, validation: int) -> None:
        """Check ``keep`` for a validation split of so many examples.

        Raises:
            ConfigError: ``keep`` is ``best``, and the split is empty.
        """
        if self.keep == "best" and not validation:
            message = "best needs a validation split, and data.validation is 0"
            raise ConfigError([Problem("keep", message)])

    @property
    def initial_images(self) -> str:
        """The kind of the initial images."""
        return self.image_start if self.images == "learnt" else self.images

    @property
    def num_reports(self) -> int:
        """Number of epochs."""
        return min(MAX_REPORTS, self.iterations)

    def iterations_of(self, report: int) -> range:
        """The iterations of an epoch (from 0)."""
        first, last = (self.iterations * n // self.num_reports for n in (report, report + 1))
        return range(first, last)

    def initial_classes(self, classes: int) -> list[int]:
        """The class of each initial label of a step."""
        order = self.classes or range(classes)
        return [order[index % len(order)] for index in range(self.examples)]
