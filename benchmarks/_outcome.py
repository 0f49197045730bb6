"""The arguments and the last line of every benchmark."""

from __future__ import annotations

import argparse
from typing import Any


def arguments(parser: argparse.ArgumentParser, **toy: Any) -> argparse.Namespace:
    """Parse the arguments of a benchmark; ``--toy`` replaces the defaults by those of ``toy``.

    A toy run only shows that the benchmark works. It has no target: see :func:`outcome`.
    """
    parser.add_argument("--toy", action="store_true", help="smallest sizes, and no target")
    if parser.parse_known_args()[0].toy:
        parser.set_defaults(**toy)
    return parser.parse_args()


def outcome(
    name: str, ratio: float, target: float, args: argparse.Namespace, well: bool = True
) -> int:
    """Print the last line of a benchmark and return its exit status.

    The status is 1 if the ratio is below the target or another check failed (``well``). A toy run
    always returns 0.
    """
    print(f"{name} ratio={ratio:.2f} target={target:g}")
    return int(not args.toy and (ratio < target or not well))
