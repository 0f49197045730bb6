"""What a search needs of its library, gathered from its events and noted while it runs.

A search that is killed, fails or still runs has a note like one that ended: `library collect`
keeps its artifacts.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterable

from stillhouse.search.artifacts.limits import Unreadable
from stillhouse.search.artifacts.need import Need, Run
from stillhouse.search.artifacts.store import Library
from stillhouse.search.monitoring.events import (
    Event,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialStarted,
    TrialWaiting,
)
from stillhouse.search.results.run_folder import RunFolder


class Needs:
    """An observer that gathers keys; :meth:`write` notes them, from another thread.

    A note never loses a key: those of earlier launches of the run stay.
    """

    def __init__(self, folder: RunFolder, library: Library) -> None:
        self._run = Run(folder.id, folder.name, platform.node(), str(folder.path))
        self._library = library
        self._keys: set[str] = set()
        self._ended = False
        self._changed = True
        self._read = False
        self._guard = threading.Lock()
        self._writing = threading.Lock()

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self._end(False)
            case StageChanged():
                self.add([event.key])
            case TrialWaiting():
                self.add(stage.key for stage in event.stages)
            case TrialStarted():
                self.add(event.keys.values())
            case SearchEnded():
                self._end(event.state == "finished")

    def add(self, keys: Iterable[str]) -> None:
        """More keys that the search needs."""
        with self._guard:
            before = len(self._keys)
            self._keys.update(keys)
            self._changed |= len(self._keys) > before

    def note(self, keys: Iterable[str]) -> None:
        """Add keys, and have all of them in the library when this returns.

        Raises:
            Lost: they cannot be written.
        """
        self.add(keys)
        self.write(soon=False)

    def write(self, soon: bool = True) -> None:
        """Note what is new, if anything is. ``soon`` gives up soon.

        Raises:
            Lost: it cannot be written; the next call tries again.
        """
        with self._writing:
            if not self._read:
                self.add(self._earlier())
                self._read = True
            with self._guard:
                need = (
                    Need(self._run, frozenset(self._keys), self._ended) if self._changed else None
                )
                self._changed = False
            if need is None:
                return
            try:
                self._library.note_search(need, soon)
            except BaseException:
                self._changed = True
                raise

    def _earlier(self) -> frozenset[str]:
        """What earlier launches of this run noted; a damaged note is written anew."""
        with contextlib.suppress(Unreadable):
            if need := self._library.need(self._run.id):
                return need.keys
        return frozenset()

    def _end(self, ended: bool) -> None:
        with self._guard:
            self._changed |= ended != self._ended
            self._ended = ended
