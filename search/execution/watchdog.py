"""The watchdog: ends a process whose work hangs, so that the work is started again in another."""

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
"""Seconds after which a process goes that could not even end itself in order."""
ON_TIMEOUT_LIMIT_S = 10.0
"""Seconds in which a process that hangs may still say so in the library."""
STDERR = 2


class Watchdog:
    """Watches this process while it is entered.

    Whoever works says :meth:`heartbeat` after every epoch. ``patience`` seconds after the last time
    the process writes where each of its threads stands to its standard error, and ends. That does
    not depend on Python: work that holds the interpreter is ended a little later, without last
    words.

    Args:
        patience: seconds of silence; none: never.
        last_words: called before the end, in a thread that is not waited for long.
    """

    def __init__(self, timeout: float | None, on_timeout: Callable[[], None]) -> None:
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._deadline: float | None = None
        self._exited = threading.Event()

    def heartbeat(self) -> None:
        """The work goes on."""
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
        thread.join(ON_TIMEOUT_LIMIT_S)  # the library may be what hangs
        os._exit(1)


def stage_watchdog(library: Library, key: str, timeout: float | None) -> Watchdog:
    """A watchdog over the making of ``key``, which leaves word in the library's scratch."""
    tensors = {"seconds": torch.tensor(timeout or 0.0)}
    return Watchdog(timeout, lambda: library.save_scratch(_hang_key(key), tensors))


def pop_hang_timeout(library: Library, key: str) -> float | None:
    """After how much silence the making of ``key`` was ended, told once; none: it never was."""
    tensors = library.load_scratch(_hang_key(key))
    library.clear_scratch(_hang_key(key))
    return None if tensors is None else float(tensors["seconds"])


def _hang_key(key: str) -> str:
    return f"{key}-hung"
