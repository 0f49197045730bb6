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

GRACE = 30.0
"""Seconds after which a process goes that could not even end itself in order."""
LAST_WORDS = 10.0
"""Seconds in which a process that hangs may still say so in the library."""
STDERR = 2


class Watchdog:
    """Watches this process while it is entered.

    Whoever works says :meth:`heard` after every epoch. ``patience`` seconds after the last time the
    process writes where each of its threads stands to its standard error, and ends. That does not
    depend on Python: work that holds the interpreter is ended a little later, without last words.

    Args:
        patience: seconds of silence; none: never.
        last_words: called before the end, in a thread that is not waited for long.
    """

    def __init__(self, patience: float | None, last_words: Callable[[], None]) -> None:
        self._patience = patience
        self._last_words = last_words
        self._until: float | None = None
        self._left = threading.Event()

    def heard(self) -> None:
        """The work goes on."""
        if self._patience is not None and self._until is not None:
            self._until = time.monotonic() + self._patience
            late = self._patience + GRACE
            faulthandler.dump_traceback_later(late, exit=True, file=STDERR)

    def __enter__(self) -> Watchdog:
        if self._patience is not None:
            self._left = threading.Event()
            self._until = time.monotonic() + self._patience
            self.heard()
            threading.Thread(target=self._watch, args=(self._left,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._until = None
        faulthandler.cancel_dump_traceback_later()

    def _watch(self, left: threading.Event) -> None:
        while (until := self._until) is not None:
            if left.wait(max(0.0, until - time.monotonic())):
                return
            if self._until is not None and self._until <= time.monotonic():
                self._end()

    def _end(self) -> None:
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        telling = threading.Thread(target=self._last_words, daemon=True)
        telling.start()
        telling.join(LAST_WORDS)  # the library may be what hangs
        os._exit(1)


def watchdog(library: Library, key: str, patience: float | None) -> Watchdog:
    """A watchdog over the making of ``key``, which leaves word in the library's scratch."""
    told = {"seconds": torch.tensor(patience or 0.0)}
    return Watchdog(patience, lambda: library.save_scratch(_word(key), told))


def seconds_hung(library: Library, key: str) -> float | None:
    """After how much silence the making of ``key`` was ended, told once; none: it never was."""
    told = library.load_scratch(_word(key))
    library.clear_scratch(_word(key))
    return None if told is None else float(told["seconds"])


def _word(key: str) -> str:
    return f"{key}-hung"
