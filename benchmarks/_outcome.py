"""What all benchmarks share: their arguments, with a toy size, and their last line."""

from __future__ import annotations

import argparse
from typing import Any


def arguments(parser: argparse.ArgumentParser, **toy: Any) -> argparse.Namespace:
    """The arguments of a benchmark; ``--toy`` gives those of ``toy`` in place of the defaults.

    A toy run shows that the benchmark runs, not how fast anything is. It has no target: see
    :func:`outcome`.
    """
    parser.add_argument("--toy", action="store_true", help="smallest sizes, and no target")
    if parser.parse_known_args()[0].toy:
        parser.set_defaults(**toy)
    return parser.parse_args()


def outcome(
    name: str, ratio: float, target: float, args: argparse.Namespace, well: bool = True
) -> int:
    """Print the last line of a benchmark and return its exit status.

    0: all is well, or it was a toy run, which asks for the figure alone. 1: the ratio is below the
    target, or something else that it asks for is not ``well``.
    """
    print(f"{name} ratio={ratio:.2f} target={target:g}")
    return int(not args.toy and (ratio < target or not well))
