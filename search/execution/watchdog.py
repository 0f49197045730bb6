"""The watchdog: end a process whose work hangs, so that another process repeats the work."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

import torch

from stillhouse.search.artifacts.store import Library

EXIT_GRACE_S = 30.0
"""Seconds after which the process is ended if its watchdog thread cannot run."""
ON_TIMEOUT_LIMIT_S = 10.0
"""Seconds for a process that hangs to note that in the library."""
STDERR = 2


class Watchdog:
    """Ends this process if the block gives no heartbeat for ``timeout`` seconds.

    The work calls ``heartbeat`` after every epoch. After the timeout the process prints the stack
    of each thread to standard error, and exits. This does not depend on Python: if the work holds
    the interpreter, the process ends a little later, without ``on_timeout``.

    Args:
        timeout: seconds without a heartbeat; None: no limit.
        on_timeout: called before the exit, in a thread with a time limit.
    """

    def __init__(self, timeout: float | None, on_timeout: Callable[[], None]) -> None:
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._deadline: float | None = None
        self._exited = threading.Event()

    def heartbeat(self) -> None:
        """Restart the timeout."""
        if self._timeout is not None and self._deadline is not None:
            self._deadline = time.monotonic() + self._timeout
            exit_after = self._timeout + EXIT_GRACE_S
            faulthandler.dump_traceback_later(exit_after, exit=True, file=STDERR)

    def __enter__(self) -> Watchdog:
        if self._timeout is not None:
            self._exited = threading.Event()
            self._deadline = time.monotonic() + self._timeout
            self.heartbeat()
            threading.Thread(target=self._watch, args=(self._exited,), daemon=True).start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exited.set()
        self._deadline = None
        faulthandler.cancel_dump_traceback_later()

    def _watch(self, exited: threading.Event) -> None:
        while (deadline := self._deadline) is not None:
            if exited.wait(max(0.0, deadline - time.monotonic())):
                return
            if self._deadline is not None and self._deadline <= time.monotonic():
                self._terminate()

    def _terminate(self) -> None:
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        thread = threading.Thread(target=self._on_timeout, daemon=True)
        thread.start()
        thread.join(ON_TIMEOUT_LIMIT_S)  # the library itself may hang
        os._exit(1)


def stage_watchdog(library: Library, key: str, timeout: float | None) -> Watchdog:
    """A watchdog over the build of ``key``, which notes a timeout in the library's scratch."""
    tensors = {"seconds": torch.tensor(timeout or 0.0)}
    return Watchdog(timeout, lambda: library.save_scratch(_hang_key(key), tensors))


def pop_hang_timeout(library: Library, key: str) -> float | None:
    """The timeout after which a build of ``key`` was ended, or None; forgets it."""
    tensors = library.load_scratch(_hang_key(key))
    library.clear_scratch(_hang_key(key))
    return None if tensors is None else float(tensors["seconds"])


def _hang_key(key: str) -> str:
    return f"{key}-hung"
