"""The plain way to a small student: a family's network, narrowed uniformly in width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.modules.network import Shape
from stillhouse.spaces.network_spec import NetworkSpec

STEPS = 1000
"""Widths looked at for every whole one."""


def uniform(
    spec: NetworkSpec, shape: Shape, classes: int, limits: Mapping[str, Limit]
) -> NetworkSpec | None:
    """The widest network of this family, no wider than ``spec``, that keeps ``limits``.

    Args:
        limits: ``parameters``, ``flops`` or ``bytes`` -> the range.

    Returns:
        ``spec`` with a smaller ``width`` (and stem, where it has one of its own); none where the
        family has no width to set, or no width keeps the limits.
    """
    grid = _widths(spec)

    def keeps(width: float, low: bool) -> bool:
        return _keeps(narrowed(spec, width), shape, classes, limits, low)

    first, after = 0, len(grid)  # costs rise with the width: the first one too wide is found
    while first < after:
        middle = (first + after) // 2
        if keeps(grid[middle], False):
            first = middle + 1
        else:
            after = middle
    if first == 0 or not keeps(grid[first - 1], True):
        return None
    return narrowed(spec, grid[first - 1])


def _widths(spec: NetworkSpec) -> Sequence[float]:
    """From the narrowest on; whole ones where the family knows no others."""
    width = getattr(spec.settings, "width", None)
    if width is None:
        return ()
    if isinstance(width, int):
        return range(1, width + 1)
    return [step / STEPS for step in range(1, round(width * STEPS))] + [width]


def narrowed(spec: NetworkSpec, width: float) -> NetworkSpec:
    """``spec`` at another width; a stem of its own is narrowed with the rest."""
    told = {**spec.plain(), "width": width}
    if told.get("stem") is not None:
        told["stem"] = max(1, round(told["stem"] * width / spec.plain()["width"]))
    return NetworkSpec.parse(told)


def _keeps(
    spec: NetworkSpec, shape: Shape, classes: int, limits: Mapping[str, Limit], low: bool
) -> bool:
    """Whether it is small enough, and with ``low`` large enough as well."""
    try:
        found = network_costs(spec.plain(), shape, classes).plain()
    except ConfigError:
        return False
    return all(
        limit.excess(found[name]) <= 0 if low else found[name] <= _most(limit)
        for name, limit in limits.items()
    )


def _most(limit: Limit) -> float:
    return limit.max if limit.max is not None else float("inf")
