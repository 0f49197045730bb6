"""Preemption: whether this machine is about to be taken away, as clouds announce beforehand."""

from __future__ import annotations

import contextlib
import math
import time

import ray

from stillhouse.search.cluster.private_api import draining_node_ids

CHECK_INTERVAL_S = 2.0


class _DrainingCheck:
    """Whether this node is draining; asks Ray at most every ``CHECK_INTERVAL_S`` seconds."""

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
    # The call is private to Ray; without it only the early warning is missing.
    with contextlib.suppress(Exception):
        return ray.get_runtime_context().get_node_id() in draining_node_ids()
    return False
