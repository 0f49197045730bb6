"""The goal of a search: a figure and its direction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One figure of the student to drive up or down."""

    figure: str
    maximize: bool
