"""Every combination of values once, in order."""

from __future__ import annotations

from typing import ClassVar

from stillhouse.search.tuning.samplers.random import Random


class Grid(Random):
    """Every combination once; ``run.grid_points`` values of each continuous range."""

    is_grid: ClassVar[bool] = True
