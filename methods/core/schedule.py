"""Schedules: how a weight or a learning rate changes while training goes on.

Every schedule is a pure function from progress to a factor, so a resumed run continues exactly.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from spaces.config import Config, knob


class Constant(Config):
    """The factor 1 throughout."""

    kind: Literal["constant"] = "constant"

    def factor(self, epoch: float, epochs: int) -> float:
        return 1.0


class Step(Config):
    """Multiplied by ``gamma`` at each of ``milestones``: epochs, or fractions of all of them."""

    kind: Literal["step"] = "step"
    milestones: tuple[float, ...] = knob(
        (0.5, 0.75), "epochs after which to step; a value below 1 is a fraction of all epochs"
    )
    gamma: float = knob(0.1, "factor applied at each milestone", ge=0.0)

    def factor(self, epoch: float, epochs: int) -> float:
        places = [m * epochs if m < 1 else m for m in self.milestones]
        # An epoch's learning rate is decided when it begins.
        return float(self.gamma ** sum(math.floor(epoch) >= place for place in places))


class Linear(Config):
    """A straight line from ``start`` to ``stop`` between two epochs, flat before and after."""

    kind: Literal["linear"] = "linear"
    start: float = knob(1.0, "factor before and at `since`", ge=0.0)
    stop: float = knob(0.0, "factor at and after `until`", ge=0.0)
    since: float = knob(0.0, "epoch (below 1: fraction of all) at which the line begins", ge=0.0)
    until: float | None = knob(None, "epoch at which it ends; none means the last", gt=0.0)

    def factor(self, epoch: float, epochs: int) -> float:
        since = self.since * epochs if self.since < 1 else self.since
        until = float(epochs) if self.until is None else self.until
        until = until * epochs if until < 1 else until
        share = min(max((epoch - since) / max(until - since, 1e-12), 0.0), 1.0)
        return self.start + share * (self.stop - self.start)


class Cosine(Config):
    """Half a cosine from 1 down to ``floor``, after ``warmup`` epochs of linear rise."""

    kind: Literal["cosine"] = "cosine"
    warmup: float = knob(0.0, "epochs of linear rise from 0", ge=0.0)
    floor: float = knob(0.0, "factor at the end", ge=0.0, le=1.0)

    def factor(self, epoch: float, epochs: int) -> float:
        if epoch < self.warmup:
            return epoch / self.warmup
        share = (epoch - self.warmup) / max(epochs - self.warmup, 1e-12)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class OneCycle(Config):
    """Cosine up from ``initial`` to 1 at ``peak`` of the way, cosine down to ``final`` after it.

    The policy of Smith and Topin (2018), with the annealing torch's OneCycleLR uses by default.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    peak: float = knob(0.3, "fraction of training at which the factor is 1", gt=0.0, lt=1.0)
    initial: float = knob(0.04, "factor at the start", ge=0.0, le=1.0)
    final: float = knob(4e-6, "factor at the end", ge=0.0, le=1.0)

    def factor(self, epoch: float, epochs: int) -> float:
        fraction = epoch / epochs
        if fraction <= self.peak:
            low, share = self.initial, 1 - fraction / self.peak
        else:
            low, share = self.final, (fraction - self.peak) / (1 - self.peak)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _expand(data: Any) -> Any:
    """``cosine`` and ``{cosine: {...}}`` to the tagged form that pydantic tells apart."""
    if isinstance(data, str):
        return {"kind": data}
    if isinstance(data, dict) and len(data) == 1 and "kind" not in data:
        kind, settings = next(iter(data.items()))
        if isinstance(settings, dict):
            return {"kind": kind, **settings}
    return data


Schedule = Annotated[
    Constant | Step | Linear | Cosine | OneCycle,
    Field(discriminator="kind"),
    BeforeValidator(_expand),
]
"""In an experiment: ``cosine``, or ``{cosine: {warmup: 5}}``."""
