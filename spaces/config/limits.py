"""Limits on figures, as an experiment file gives them."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from stillhouse.spaces.config.base import Config, knob


class Limit(Config):
    """The range in which a figure must lie."""

    min: float | None = knob(None, "smallest allowed value")
    max: float | None = knob(None, "largest allowed value")

    @model_validator(mode="after")
    def _not_empty(self) -> Limit:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} lies above max {self.max}")
        return self

    def excess(self, value: float) -> float:
        """How far ``value`` lies outside; zero or less when it is allowed."""
        over = value - self.max if self.max is not None else float("-inf")
        under = self.min - value if self.min is not None else float("-inf")
        return max(over, under)

    def __str__(self) -> str:
        parts = []
        if self.min is not None:
            parts.append(f"at least {self.min:,g}")
        if self.max is not None:
            parts.append(f"at most {self.max:,g}")
        return " and ".join(parts)


def as_limit(data: Any) -> Any:
    """A bare number is the most that is allowed."""
    number = isinstance(data, int | float) and not isinstance(data, bool)
    return {"max": data} if number else data
