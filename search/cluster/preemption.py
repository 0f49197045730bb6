"""Notice: whether this machine is about to be taken away, as clouds tell some time before."""

from __future__ import annotations

import contextlib
import math
import time

import ray

CHECK_INTERVAL_S = 2.0
"""Seconds between two questions whether this machine will stay."""


class _DrainingCheck:
    """Whether this machine is about to be taken away, as clouds tell some time before."""

    def __init__(self) -> None:
        self._checked_at = -math.inf
        self._is_draining = False

    def __call__(self) -> bool:
        if time.monotonic() - self._checked_at > CHECK_INTERVAL_S:
            self._is_draining = _node_is_draining()
            self._checked_at = time.monotonic()
        return self._is_draining


is_draining = _DrainingCheck()


def _node_is_draining() -> bool:
    # Ray has no public name for it; where this one is gone, only the warning is missed.
    with contextlib.suppress(Exception):
        from ray._private.state import state

        return ray.get_runtime_context().get_node_id() in state.get_draining_nodes()
    return False
