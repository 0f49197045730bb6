"""Delivery of a search's events to its observers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from stillhouse.search.monitoring.events import Event, Observer, StageChanged


class EventDispatcher:
    """Passes events to all observers, one event at a time, from any thread.

    The end of a stage is passed on once: repeated announcements are dropped.

    Args:
        observers: called with every event.
        responder: called with every event first; its events follow directly.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        responder: Callable[[Event], Iterable[Event]] | None = None,
    ) -> None:
        self._observers = tuple(observers)
        self._responder = responder
        self._lock = threading.Lock()
        self.made_keys: set[str] = set()
        self.reused_keys: set[str] = set()
        self._announced_keys: set[str] = set()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, StageChanged) and not self._is_first_announcement(event):
                return
            responses = self._responder(event) if self._responder else ()
            for dispatched in (event, *responses):
                self._notify_observers(dispatched)

    def _notify_observers(self, event: Event) -> None:
        """Call every observer, then raise the first failure if there was one."""
        failures: list[BaseException] = []
        for observer in self._observers:
            try:
                observer(event)
            except BaseException as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _is_first_announcement(self, event: StageChanged) -> bool:
        """False for the repeated end of a stage; the first end is counted as made or reused."""
        if event.state not in ("made", "reused"):
            return True
        if event.key in self._announced_keys:
            return False
        self._announced_keys.add(event.key)
        (self.made_keys if event.state == "made" else self.reused_keys).add(event.key)
        return True
