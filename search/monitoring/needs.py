"""The keys that a search needs in its library, recorded there while the search runs.

``stillhouse library collect`` keeps the artifacts of these keys, also for a search that still runs,
failed or was killed.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterable

from stillhouse.search.artifacts.limits import UnreadableFile
from stillhouse.search.artifacts.need import RunRef, RunReferences
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


class NeededKeysRecorder:
    """An observer that collects keys; ``write`` records them from another thread.

    Recorded keys are never removed: those of earlier launches of the run stay.
    """

    def __init__(self, folder: RunFolder, library: Library) -> None:
        self._run = RunRef(folder.id, folder.name, platform.node(), str(folder.path))
        self._library = library
        self._keys: set[str] = set()
        self._ended = False
        self._changed = True
        self._has_read_earlier = False
        self._keys_lock = threading.Lock()
        self._write_lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self._set_ended(False)
            case StageChanged():
                self.add([event.key])
            case TrialWaiting():
                self.add(stage.key for stage in event.stages)
            case TrialStarted():
                self.add(event.stage_keys.values())
            case SearchEnded():
                self._set_ended(event.state == "finished")

    def add(self, keys: Iterable[str]) -> None:
        """Add keys without writing them."""
        with self._keys_lock:
            num_keys = len(self._keys)
            self._keys.update(keys)
            self._changed |= len(self._keys) > num_keys

    def add_and_write(self, keys: Iterable[str]) -> None:
        """Add keys, and record all of them in the library before this returns.

        Raises:
            StorageUnavailable: they cannot be written.
        """
        self.add(keys)
        self.write(give_up_soon=False)

    def write(self, give_up_soon: bool = True) -> None:
        """Record the keys if any is new; ``give_up_soon`` limits the number of tries.

        Raises:
            StorageUnavailable: they cannot be written; the next call tries again.
        """
        with self._write_lock:
            if not self._has_read_earlier:
                self.add(self._earlier_keys())
                self._has_read_earlier = True
            with self._keys_lock:
                if not self._changed:
                    return
                references = RunReferences(self._run, frozenset(self._keys), self._ended)
                self._changed = False
            try:
                self._library.write_references(references, give_up_soon)
            except BaseException:
                self._changed = True
                raise

    def _earlier_keys(self) -> frozenset[str]:
        """The keys that earlier launches of this run recorded; none if that file is damaged."""
        with contextlib.suppress(UnreadableFile):
            if references := self._library.references_of(self._run.id):
                return references.keys
        return frozenset()

    def _set_ended(self, ended: bool) -> None:
        with self._keys_lock:
            self._changed |= ended != self._ended
            self._ended = ended
