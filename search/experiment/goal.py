"""The goal of a search: a metric and its direction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One metric of the student, and whether to maximise or minimise it."""

    figure: str
    maximize: bool
