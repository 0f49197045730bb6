"""Limits on metrics, as an experiment file gives them."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from stillhouse.spaces.config.base import Config, setting


class Limit(Config):
    """The range in which a metric must lie."""

    min: float | None = setting(None, "smallest allowed value")
    max: float | None = setting(None, "largest allowed value")

    @model_validator(mode="after")
    def _require_range(self) -> Limit:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} lies above max {self.max}")
        return self

    def violation(self, value: float) -> float:
        """The distance of ``value`` from the range; zero or less where it is allowed."""
        above_max = value - self.max if self.max is not None else float("-inf")
        below_min = self.min - value if self.min is not None else float("-inf")
        return max(above_max, below_min)

    def __str__(self) -> str:
        bounds = []
        if self.min is not None:
            bounds.append(f"at least {self.min:,g}")
        if self.max is not None:
            bounds.append(f"at most {self.max:,g}")
        return " and ".join(bounds)


def as_limit(data: Any) -> Any:
    """A plain number as ``{max: number}``; other data unchanged."""
    is_number = isinstance(data, int | float) and not isinstance(data, bool)
    return {"max": data} if is_number else data
