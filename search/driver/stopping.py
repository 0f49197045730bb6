"""Ctrl-C and SIGTERM: both stop a search in the same way, at every phase."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


class StopSignal:
    """Whether the search has been asked to stop."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def is_cause_of(self, error: BaseException) -> bool:
        """Whether a stop caused an error; during Ray's start it is raised as an error of Ray."""
        return self._requested.is_set() or isinstance(error, KeyboardInterrupt)

    @contextlib.contextmanager
    def handling_sigterm(self) -> Iterator[None]:
        """SIGTERM acts as Ctrl-C: Tune handles SIGINT, clusters send SIGTERM.

        Only the main thread may install handlers; in other threads this has no effect.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous_handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous_handler)

    def _on_sigterm(self, *_: object) -> None:
        self._requested.set()
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)
