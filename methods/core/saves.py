"""Saves: where half-done work is kept, so that it resumes where it stood."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Saves(Protocol):
    """Where half-done work is kept, so that it resumes at an epoch."""

    def load(self) -> dict[str, Tensor] | None:
        """What was stored last; none at a first start."""
        ...

    def due(self) -> bool:
        """Whether it is time to store again; asked after every epoch."""
        ...

    def store(self, tensors: dict[str, Tensor]) -> None:
        """Keep these, contiguous and on the CPU, instead of what was stored before."""
        ...
