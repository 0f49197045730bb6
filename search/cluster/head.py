"""Whether the head of a cluster still answers.

Ray itself tries for a minute, in calls that nothing interrupts, and then ends the driver's process
without a word to the search. So a driver has to see it first.
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
"""Seconds of silence after which a head counts as lost: Ray would end the process after 60."""
_PING_INTERVAL_S = 3.0
_CONNECT_TIMEOUT_S = 5.0
_SHUTDOWN_TIMEOUT_S = 10.0
"""Seconds to put things in order before a process ends."""


class HeadMonitor:
    """Asks the head at ``HOST:PORT`` every few seconds, in a thread of its own.

    Args:
        address: where Ray's database listens.
        gone: called once, in that thread, with what is to be said of a head that has been silent
            for ``patience`` seconds.
        patience: seconds.
        period: seconds between two questions.
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
        """Ask no more."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        silent_since: float | None = None  # the first question without an answer
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
    """End this process, with a line and status 2, after ``steps``.

    Other threads hang in calls of Ray's; so they are not waited for. A step that fails holds none
    up, and all of them together get some seconds: a store may have gone with the head.
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
