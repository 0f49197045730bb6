"""Layout of labels and marks without overlap, and axis ranges that ignore failures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def spread_apart(positions: Sequence[float], gap: float) -> list[float]:
    """Move places on a line until all lie ``gap`` apart, in their order, by the least squares.

    Less ``gap`` times its rank, each place has to be no smaller than the one before: isotonic
    regression, solved by pooling neighbours that violate that.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    pools: list[tuple[float, int]] = []  # mean, how many
    for rank, i in enumerate(order):
        mean, count = positions[i] - rank * gap, 1
        while pools and pools[-1][0] >= mean:
            previous_mean, previous_count = pools.pop()
            mean, count = (
                (previous_mean * previous_count + mean * count) / (previous_count + count),
                previous_count + count,
            )
        pools.append((mean, count))
    levels = [mean for mean, count in pools for _ in range(count)]
    new_positions = [0.0] * len(positions)
    for rank, i in enumerate(order):
        new_positions[i] = levels[rank] + rank * gap
    return new_positions


Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in points."""

_SIDES = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (-1.0, 1.0))


def label_offsets(
    marks: Sequence[tuple[float, float, float]],
    height: float,
    others: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float]]:
    """Where to write labels around marks so that they cover neither each other nor the marks.

    Args:
        marks: place to the right, place upwards and the label's width, in points.
        height: a label's height, and about a mark's.
        others: places of marks without labels.

    Returns:
        For each mark the middle of its label, seen from the mark.
    """
    occupied = [_box(x, y, height, height) for x, y in [*others, *(mark[:2] for mark in marks)]]
    chosen = []
    for x, y, width in marks:
        dx_beside, dy_above = width / 2 + 0.7 * height, 1.05 * height
        offsets = [(side * dx_beside, up * dy_above) for side, up in _SIDES]
        boxes = [_box(x + dx, y + dy, width, height) for dx, dy in offsets]
        best_side = min(
            range(len(boxes)), key=lambda i: sum(_overlap_area(boxes[i], t) for t in occupied)
        )
        occupied.append(boxes[best_side])
        chosen.append(offsets[best_side])
    return chosen


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap_area(first: Box, second: Box) -> float:
    """The area that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def sideways_offsets(
    xs: Sequence[float], ys: Sequence[float], diameter: float, max_offset: float = 60.0
) -> list[float]:
    """How far to move dots sideways so that none covers another, as few and little as possible.

    Args:
        xs: where they are, in points, as are all lengths here.
        ys: their heights, which stay.
        diameter: a dot's diameter.
        max_offset: beyond this they may cover each other after all.
    """
    steps = [0.0]
    while steps[-1] < max_offset:
        steps.append(steps[-1] + diameter / 4)
    offsets = [sign * step for step in steps for sign in (1, -1)][1:]
    chosen = [0.0] * len(xs)
    placed: list[int] = []
    for i in sorted(range(len(xs)), key=lambda i: ys[i]):
        neighbours = [j for j in placed if ys[i] - ys[j] < diameter]

        def is_free(offset: float, i: int = i, neighbours: Sequence[int] = neighbours) -> bool:
            x = xs[i] + offset
            gaps = (math.hypot(x - xs[j] - chosen[j], ys[i] - ys[j]) for j in neighbours)
            return all(gap >= diameter for gap in gaps)

        chosen[i] = next((offset for offset in offsets if is_free(offset)), 0.0)
        placed.append(i)
    return chosen


def offset_to_free_space(
    box: Box, occupied: Sequence[Box], step: float = 2.0, max_offset: float = 160.0
) -> float:
    """How far to move a box to the right so that it covers none of those that are there.

    Beyond ``max_offset`` points it may cover others after all, and stays where it is.
    """
    for i in range(int(max_offset / step) + 1):
        left, right = box[0] + i * step, box[2] + i * step
        if not any(_overlap_area((left, box[1], right, box[3]), other) for other in occupied):
            return i * step
    return 0.0


def robust_range(values: Sequence[float], maximize: bool) -> tuple[float, float]:
    """The range of ``values`` without what lies far on the bad side: one failure would flatten all.

    Far is more than three times the distance between the quartiles beyond the nearer one.
    """
    if len(values) < 4:
        return min(values), max(values)
    lower_quartile, _, upper_quartile = statistics.quantiles(values, n=4, method="inclusive")
    fence = 3 * (upper_quartile - lower_quartile)
    if maximize:
        return min(v for v in values if v >= lower_quartile - fence), max(values)
    return min(values), max(v for v in values if v <= upper_quartile + fence)
