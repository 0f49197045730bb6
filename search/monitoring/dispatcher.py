"""Passes the events of a search on to whoever listens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from stillhouse.search.monitoring.events import Event, Observer, StageChanged


class EventDispatcher:
    """Passes events to all observers, one at a time whichever thread they come from.

    Args:
        observers: called with every event.
        answers: called with every event, too; what it answers is passed on right behind it.
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
        """Tell all of them, also where one fails; the first failure goes on then."""
        failures: list[BaseException] = []
        for observer in self._observers:
            try:
                observer(event)
            except BaseException as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _is_first_announcement(self, event: StageChanged) -> bool:
        """Whether the end of a stage is told for the first time; keeps count of both kinds."""
        if event.state not in ("made", "reused"):
            return True
        if event.key in self._announced_keys:
            return False
        self._announced_keys.add(event.key)
        (self.made_keys if event.state == "made" else self.reused_keys).add(event.key)
        return True
