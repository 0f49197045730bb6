"""Ctrl-C and SIGTERM: both stop a search in the same way, at every phase."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


class Stop:
    """Whether the search has been asked to stop."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def caused(self, error: BaseException) -> bool:
        """Whether an error comes of a stop.

        A stop in the middle of Ray's start comes out of it as an error of Ray's.
        """
        return self._asked.is_set() or isinstance(error, KeyboardInterrupt)

    @contextlib.contextmanager
    def by_signal(self) -> Iterator[None]:
        """SIGTERM does what Ctrl-C does: Tune listens to the one, clusters send the other.

        Only the main thread may say so; in another thread this changes nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, *_: object) -> None:
        self._asked.set()
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)
