"""Settings of a training run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from stillhouse.methods.core.config.schedule import Cosine, Schedule
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Choice, Integers, LogUniform, Uniform

Precision = Literal["auto", "float32", "bfloat16"]


class Training(Config):
    """Settings of a training run. The defaults are common in the papers of the methods."""

    epochs: int = setting(60, "passes over the training split", Integers(1, 300), ge=1)
    batch_size: int = setting(128, "examples a step", Choice((32, 64, 128, 256, 512)), ge=1)
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "update rule", Choice(("sgd", "adamw")))
    lr: float = setting(
        0.05, "learning rate where the schedule says 1", LogUniform(1e-4, 0.5), gt=0.0
    )
    momentum: float = setting(0.9, "sgd only", Uniform(0.0, 0.99), ge=0.0, lt=1.0)
    nesterov: bool = setting(True, "sgd only: look ahead along the momentum", Choice((False, True)))
    weight_decay: float = setting(
        5e-4, "pull of all weights towards 0 (decoupled for adamw)", LogUniform(1e-5, 1e-2), ge=0.0
    )
    decay_weights_only: bool = setting(
        False, "weight decay leaves norms and biases alone", Choice((False, True))
    )
    schedule: Schedule = setting(Cosine(), "factor on the learning rate")
    ema: float | None = setting(
        None, "average the weights over steps with this decay: the result", gt=0.0, lt=1.0
    )
    clip: float | None = setting(None, "largest norm of the gradient", gt=0.0)
    precision: Precision = setting("auto", "number format; auto is bfloat16 where that is faster")
    keep: Literal["last", "best"] = setting("last", "whose epoch's weights are the result")
    workers: int = setting(1, "processes that share every batch; the result is the same", ge=1)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0; set nesterov: false")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result; the number of workers does not.

        ``decay_weights_only`` was added later; if it is off it is left out of the stage key.
        """
        excluded = {"workers"} if self.decay_weights_only else {"workers", "decay_weights_only"}
        return {name: value for name, value in self.plain().items() if name not in excluded}

    def require_single_worker(self, subject: str) -> Self:
        """These settings, for work that one process does; ``subject`` names that work in plural.

        Raises:
            ValueError: ``workers`` is above 1.
        """
        if self.workers > 1:
            raise ValueError(
                f"{subject} on one worker, found workers: {self.workers}; leave it out"
            )
        return self

    @property
    def divergence_remedy(self) -> str:
        """The end of the message for a loss that is not finite."""
        return f"training diverged; try a smaller lr than {self.lr:g}, or set clip"

    def lr_at(self, position: float) -> float:
        """The learning rate ``position`` epochs after the start."""
        return self.lr * self.schedule.factor(position, self.epochs)
