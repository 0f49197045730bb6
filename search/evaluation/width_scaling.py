"""Uniform width scaling: the plain way to a smaller network of a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.modules.network import Shape
from stillhouse.spaces.network_spec import NetworkSpec

WIDTH_STEPS = 1000
"""Widths looked at for every whole one."""


def scale_width(
    spec: NetworkSpec, shape: Shape, classes: int, limits: Mapping[str, Limit]
) -> NetworkSpec | None:
    """The widest network of this family, no wider than ``spec``, that keeps ``limits``.

    Args:
        limits: ``parameters``, ``flops`` or ``bytes`` -> the range.

    Returns:
        ``spec`` with a smaller ``width`` (and stem, where it has one of its own); none where the
        family has no width to set, or no width keeps the limits.
    """
    grid = _width_grid(spec)

    def keeps_limits(width: float, check_minimum: bool) -> bool:
        return _keeps_limits(with_width(spec, width), shape, classes, limits, check_minimum)

    lower, upper = 0, len(grid)  # costs rise with the width: the first one too wide is found
    while lower < upper:
        mid = (lower + upper) // 2
        if keeps_limits(grid[mid], False):
            lower = mid + 1
        else:
            upper = mid
    if lower == 0 or not keeps_limits(grid[lower - 1], True):
        return None
    return with_width(spec, grid[lower - 1])


def _width_grid(spec: NetworkSpec) -> Sequence[float]:
    """From the narrowest on; whole ones where the family knows no others."""
    width = getattr(spec.settings, "width", None)
    if width is None:
        return ()
    if isinstance(width, int):
        return range(1, width + 1)
    return [step / WIDTH_STEPS for step in range(1, round(width * WIDTH_STEPS))] + [width]


def with_width(spec: NetworkSpec, width: float) -> NetworkSpec:
    """``spec`` at another width; a stem of its own is narrowed with the rest."""
    settings = {**spec.plain(), "width": width}
    if settings.get("stem") is not None:
        settings["stem"] = max(1, round(settings["stem"] * width / spec.plain()["width"]))
    return NetworkSpec.parse(settings)


def _keeps_limits(
    spec: NetworkSpec, shape: Shape, classes: int, limits: Mapping[str, Limit], check_minimum: bool
) -> bool:
    """Whether it is small enough, and with ``check_minimum`` large enough as well."""
    try:
        costs = network_costs(spec.plain(), shape, classes).plain()
    except ConfigError:
        return False
    return all(
        limit.violation(costs[name]) <= 0 if check_minimum else costs[name] <= _upper_bound(limit)
        for name, limit in limits.items()
    )


def _upper_bound(limit: Limit) -> float:
    return limit.max if limit.max is not None else float("inf")
