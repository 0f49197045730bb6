"""Room in pictures: labels and marks set apart, and ranges that failures do not stretch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Move places on a line until all lie ``gap`` apart, in their order, by the least squares.

    Less ``gap`` times its rank, each place has to be no smaller than the one before: isotonic
    regression, solved by pooling neighbours that violate that.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    pools: list[tuple[float, int]] = []  # mean, how many
    for rank, i in enumerate(order):
        mean, count = places[i] - rank * gap, 1
        while pools and pools[-1][0] >= mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    levels = [mean for mean, count in pools for _ in range(count)]
    moved = [0.0] * len(places)
    for rank, i in enumerate(order):
        moved[i] = levels[rank] + rank * gap
    return moved


Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in points."""

_SIDES = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (-1.0, 1.0))


def labelled(
    marks: Sequence[tuple[float, float, float]],
    tall: float,
    others: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float]]:
    """Where to write labels around marks so that they cover neither each other nor the marks.

    Args:
        marks: place to the right, place upwards and the label's width, in points.
        tall: a label's height, and about a mark's.
        others: places of marks without labels.

    Returns:
        For each mark the middle of its label, seen from the mark.
    """
    taken = [_box(x, y, tall, tall) for x, y in [*others, *(mark[:2] for mark in marks)]]
    moved = []
    for x, y, wide in marks:
        reach, rise = wide / 2 + 0.7 * tall, 1.05 * tall
        places = [(side * reach, up * rise) for side, up in _SIDES]
        boxes = [_box(x + dx, y + dy, wide, tall) for dx, dy in places]
        best = min(range(len(boxes)), key=lambda i: sum(_overlap(boxes[i], t) for t in taken))
        taken.append(boxes[best])
        moved.append(places[best])
    return moved


def _box(x: float, y: float, wide: float, tall: float) -> Box:
    return x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(tall, 0.0)


def beside(
    xs: Sequence[float], ys: Sequence[float], across: float, most: float = 60.0
) -> list[float]:
    """How far to move dots sideways so that none covers another, as few and little as possible.

    Args:
        xs: where they are, in points, as are all lengths here.
        ys: their heights, which stay.
        across: a dot's diameter.
        most: beyond this they may cover each other after all.
    """
    steps = [0.0]
    while steps[-1] < most:
        steps.append(steps[-1] + across / 4)
    offsets = [sign * step for step in steps for sign in (1, -1)][1:]
    moved = [0.0] * len(xs)
    placed: list[int] = []
    for i in sorted(range(len(xs)), key=lambda i: ys[i]):
        near = [j for j in placed if ys[i] - ys[j] < across]

        def free(offset: float, i: int = i, near: Sequence[int] = near) -> bool:
            x = xs[i] + offset
            gaps = (math.hypot(x - xs[j] - moved[j], ys[i] - ys[j]) for j in near)
            return all(gap >= across for gap in gaps)

        moved[i] = next((offset for offset in offsets if free(offset)), 0.0)
        placed.append(i)
    return moved


def aside(box: Box, taken: Sequence[Box], step: float = 2.0, most: float = 160.0) -> float:
    """How far to move a box to the right so that it covers none of those that are there.

    Beyond ``most`` points it may cover others after all, and stays where it is.
    """
    for i in range(int(most / step) + 1):
        left, right = box[0] + i * step, box[2] + i * step
        if not any(_overlap((left, box[1], right, box[3]), other) for other in taken):
            return i * step
    return 0.0


def worth_showing(values: Sequence[float], maximize: bool) -> tuple[float, float]:
    """The range of ``values`` without what lies far on the bad side: one failure would flatten all.

    Far is more than three times the distance between the quartiles beyond the nearer one.
    """
    if len(values) < 4:
        return min(values), max(values)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    reach = 3 * (third - first)
    if maximize:
        return min(v for v in values if v >= first - reach), max(values)
    return min(values), max(v for v in values if v <= third + reach)
