"""Notice: whether this machine is about to be taken away, as clouds tell some time before."""

from __future__ import annotations

import contextlib
import math
import time

import ray

NOTICE = 2.0
"""Seconds between two questions whether this machine will stay."""


class _Notice:
    """Whether this machine is about to be taken away, as clouds tell some time before."""

    def __init__(self) -> None:
        self._asked = -math.inf
        self._leaving = False

    def __call__(self) -> bool:
        if time.monotonic() - self._asked > NOTICE:
            self._leaving = _is_drained()
            self._asked = time.monotonic()
        return self._leaving


leaving = _Notice()


def _is_drained() -> bool:
    # Ray has no public name for it; where this one is gone, only the warning is missed.
    with contextlib.suppress(Exception):
        from ray._private.state import state

        return ray.get_runtime_context().get_node_id() in state.get_draining_nodes()
    return False
