"""Schedules: factors on a weight or a learning rate that depend on the progress of training.

Every schedule is a pure function of the progress, so a resumed run continues exactly. Positions are
epochs done: 60 means after 60 epochs. A position below 1 is a fraction of all epochs, so one
schedule fits short and long training.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat

from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.named import to_flat_form

_POSITION_HELP = "epochs done (below 1: fraction of all)"


def _to_epochs(value: float, epochs: int) -> float:
    return value * epochs if value < 1 else value


class Constant(Config):
    """The factor 1 throughout."""

    kind: Literal["constant"] = "constant"

    def factor(self, position: float, epochs: int) -> float:
        return 1.0


class Step(Config):
    """Multiplied by ``gamma`` at each of ``milestones``."""

    kind: Literal["step"] = "step"
    milestones: tuple[NonNegativeFloat, ...] = setting(
        (0.5, 0.75), f"when to step: {_POSITION_HELP}"
    )
    gamma: float = setting(0.1, "factor applied at each milestone", ge=0.0)

    def factor(self, position: float, epochs: int) -> float:
        milestones = [_to_epochs(milestone, epochs) for milestone in self.milestones]
        # The factor changes between two epochs, never within one.
        return float(self.gamma ** sum(math.floor(position) >= epoch for epoch in milestones))


class Switch(Config):
    """1 from ``since`` until ``until``, 0 before and after."""

    kind: Literal["switch"] = "switch"
    since: float = setting(0.0, f"when it begins: {_POSITION_HELP}", ge=0.0)
    until: float | None = setting(None, f"when it ends: {_POSITION_HELP}; none means never", gt=0.0)

    def factor(self, position: float, epochs: int) -> float:
        has_begun = position >= _to_epochs(self.since, epochs)
        has_ended = self.until is not None and position >= _to_epochs(self.until, epochs)
        return float(has_begun and not has_ended)


class Linear(Config):
    """A straight line from ``start`` to ``stop``, constant before ``since`` and after ``until``."""

    kind: Literal["linear"] = "linear"
    start: float = setting(1.0, "factor before and at `since`", ge=0.0)
    stop: float = setting(0.0, "factor at and after `until`", ge=0.0)
    since: float = setting(0.0, f"where the line begins: {_POSITION_HELP}", ge=0.0)
    until: float | None = setting(
        None, f"where it ends: {_POSITION_HELP}; none means the last", gt=0.0
    )

    def factor(self, position: float, epochs: int) -> float:
        since = _to_epochs(self.since, epochs)
        until = float(epochs) if self.until is None else _to_epochs(self.until, epochs)
        if position >= until:
            return self.stop
        share = max(position - since, 0.0) / max(until - since, 1e-12)
        return self.start + share * (self.stop - self.start)


class Warmup(Config):
    """1 / n in the first epoch, 2 / n in the second, and 1 from the n-th epoch on.

    Much published code has this warm-up. ``linear`` also grows within an epoch and begins with 0.
    """

    kind: Literal["warmup"] = "warmup"
    epochs: float = setting(20.0, "n: the first epoch at 1 (below 1: fraction of all)", gt=0.0)

    def factor(self, position: float, epochs: int) -> float:
        return min((math.floor(position) + 1) / _to_epochs(self.epochs, epochs), 1.0)


class Cosine(Config):
    """Half a cosine from 1 down to ``floor``, after an optional linear rise.

    Loshchilov and Hutter 2017, section 3, without restarts.
    """

    kind: Literal["cosine"] = "cosine"
    warmup: float = setting(0.0, f"end of a linear rise from 0: {_POSITION_HELP}", ge=0.0)
    floor: float = setting(0.0, "factor at the end", ge=0.0, le=1.0)

    def factor(self, position: float, epochs: int) -> float:
        warmup = _to_epochs(self.warmup, epochs)
        if position < warmup:
            return position / warmup
        share = min((position - warmup) / max(epochs - warmup, 1e-12), 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


class OneCycle(Config):
    """Cosine up from ``initial`` to 1 at the fraction ``peak``, then cosine down to ``final``.

    The policy of Smith and Topin (2018), with the default annealing of torch's OneCycleLR.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    peak: float = setting(0.3, "fraction of training at which the factor is 1", gt=0.0, lt=1.0)
    initial: float = setting(0.04, "factor at the start", ge=0.0, le=1.0)
    final: float = setting(4e-6, "factor at the end", ge=0.0, le=1.0)

    def factor(self, position: float, epochs: int) -> float:
        fraction = position / epochs
        if fraction <= self.peak:
            low, share = self.initial, 1 - fraction / self.peak
        else:
            low, share = self.final, (fraction - self.peak) / (1 - self.peak)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


_SCHEDULE_KINDS = ("constant", "step", "switch", "linear", "warmup", "cosine", "one_cycle")


Schedule = Annotated[
    Constant | Step | Switch | Linear | Warmup | Cosine | OneCycle,
    Field(discriminator="kind"),
    BeforeValidator(to_flat_form("schedule", _SCHEDULE_KINDS)),
]
"""In an experiment: ``cosine``, or ``{cosine: {warmup: 5}}``."""
