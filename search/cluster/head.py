"""Monitor whether the head of a cluster still answers.

Ray itself retries for a minute, in calls that cannot be interrupted. It then ends the process of
the driver without notice. The driver has to detect the loss before that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from stillhouse.search.core.errors import StorageUnavailable

HEAD_TIMEOUT_S = 35.0
"""Seconds without an answer after which a head counts as lost; Ray ends the process after 60."""
_PING_INTERVAL_S = 3.0
_CONNECT_TIMEOUT_S = 5.0
_SHUTDOWN_TIMEOUT_S = 10.0
"""Seconds for the last steps of a process."""


class HeadMonitor:
    """Connects to the head every few seconds, in a thread of its own.

    Args:
        address: ``HOST:PORT`` of the head's database.
        on_lost: called once, in that thread, with a message for the user.
        timeout: seconds without an answer after which the head counts as lost.
        interval: seconds between two attempts to connect.
    """

    def __init__(
        self,
        address: str,
        on_lost: Callable[[str], None],
        timeout: float = HEAD_TIMEOUT_S,
        interval: float = _PING_INTERVAL_S,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host_and_port = (host.strip("[]"), int(port))
        self._address, self._on_lost = address, on_lost
        self._timeout, self._interval = timeout, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        silent_since: float | None = None  # the first attempt that failed
        while not self._stop.wait(self._interval):
            pinged_at = time.monotonic()
            if self._is_answering():
                silent_since = None
                continue
            silent_since = silent_since or pinged_at
            if time.monotonic() - silent_since > self._timeout:
                self._on_lost(
                    f"the cluster is lost: its head at {self._address} has not answered for "
                    f"{self._timeout:.0f} s; start the cluster again"
                )
                return

    def _is_answering(self) -> bool:
        try:
            socket.create_connection(self._host_and_port, timeout=_CONNECT_TIMEOUT_S).close()
        except OSError:
            return False
        return True


def exit_process(error: StorageUnavailable, steps: Sequence[Callable[[], object]]) -> NoReturn:
    """Run ``steps`` and end this process with status 2 and one line.

    Other threads may hang in calls of Ray, so this does not wait for them. A step that fails does
    not stop the next one. All steps share a time limit: a store may be lost with the head.
    """
    print(f"error: {error}", file=sys.stderr, flush=True)
    thread = threading.Thread(target=_run_steps, args=(steps,), daemon=True)
    thread.start()
    thread.join(_SHUTDOWN_TIMEOUT_S)
    sys.stdout.flush()
    os._exit(2)


def _run_steps(steps: Sequence[Callable[[], object]]) -> None:
    for step in steps:
        with contextlib.suppress(Exception):
            step()
