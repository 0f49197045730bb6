"""How a search ends: what it came to is written first, and its state is told whatever fails."""

from __future__ import annotations

import contextlib
import errno
import json
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from stillhouse.search.core.addresses import hushed
from stillhouse.search.core.errors import Lost
from stillhouse.search.results.outcome import Outcome, winner
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.problems import ConfigError, first_line

MOST_REASONS = 3
"""Different reasons of failures that one line names."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What an operating system says of a place without room, and of one that may not be written."""
_CLOSED = (*FORBIDDEN, errno.ENOENT, errno.ENOTDIR)
ERRORS = "error.txt"
"""In the run's folder: what failed, in full."""


class StateFile:
    """``state.json`` of a run: its state, why it failed, and the seconds it took in all."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._since = time.monotonic()
        found = folder.read_json("state.json")
        self.before = str(found.get("state", ""))
        self.earlier = folder.seconds_so_far()

    @property
    def seconds(self) -> float:
        """Of this launch and of all before it."""
        return self.earlier + time.monotonic() - self._since

    def note(self, state: str, reason: str = "") -> None:
        """Write the state, also on a full disk; nothing where nothing can be written."""
        told = {"state": state, "seconds": self.seconds, **({"reason": reason} if reason else {})}
        try:
            self._folder.write_json("state.json", told)
        except OSError:
            with contextlib.suppress(OSError):
                self._write_over(json.dumps(told))

    def _write_over(self, text: str) -> None:
        """In the old file's own place, which a full disk need not find anew."""
        with (self._folder.path / "state.json").open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()


class Steps:
    """The steps of an ending: each is tried, and one that fails does not stop the others.

    Args:
        folder: the run's, where ``error.txt`` gets what failed in full.
        addresses: whose secrets no message shows.
    """

    def __init__(self, folder: RunFolder, *addresses: str | None) -> None:
        self._folder = folder
        self._addresses = addresses
        self.failures: list[str] = []

    @property
    def reason(self) -> str:
        """All that failed, in one line; empty where nothing did."""
        return "; ".join(self.failures)

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Try ``what``; Ctrl-C goes through."""
        try:
            yield
        except Exception as error:
            told = plain_reason(error, self._folder)
            if told is None:
                self._keep(error)
                said = f"{type(error).__name__}: {first_line(error)}"
                told = f"{said} (in full in {self._folder.path / ERRORS})"
            self.failures.append(f"{what} failed: {hushed(told, *self._addresses)}")

    def _keep(self, error: Exception) -> None:
        told = hushed("".join(traceback.format_exception(error)), *self._addresses)
        with (
            contextlib.suppress(OSError),
            (self._folder.path / ERRORS).open("a", encoding="utf-8") as file,
        ):
            file.write(told)


def told_reason(error: BaseException, folder: RunFolder, *addresses: str | None) -> str:
    """Why a search failed, in one line without the secrets of ``addresses``."""
    plain = plain_reason(error, folder)
    return hushed(first_line(error) if plain is None else plain, *addresses)


def plain_reason(error: BaseException, folder: RunFolder) -> str | None:
    """A line that says all of an error; none where only its traceback does."""
    if isinstance(error, ConfigError):
        return "; ".join(str(problem) for problem in error.problems)
    lost = error if isinstance(error, Lost) else unwritable(error, folder)
    return str(lost) if lost else None


def unwritable(error: BaseException, folder: RunFolder) -> Lost | None:
    """The run's folder as a place that takes no more, if the error says so."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and (seen.errno in FULL or _closed(seen, folder)):
            remedy = "make room there" if seen.errno in FULL else "make it writable"
            file = seen.filename or folder.path
            return Lost("runs", f"{file} cannot be written: {seen.strerror}; {remedy}")
        if told := _of_no_room(seen):  # as Ray and Tune pass it on
            return Lost("runs", f"{folder.path} cannot be written: {told}; make room there")
        seen = seen.__cause__ or seen.__context__
    return None


def _of_no_room(error: BaseException) -> str:
    """The line of an error of another kind that tells of a full disk."""
    if isinstance(error, Lost | ConfigError):
        return ""  # of another place, and one line already
    lines = str(error).splitlines()
    return next((one.strip() for one in lines if "No space left on device" in one), "")


def _closed(error: OSError, folder: RunFolder) -> bool:
    """Whether something in the run's folder may not be written."""
    file = str(error.filename or "")
    return error.errno in _CLOSED and file.startswith(str(folder.path))


def no_result(outcome: Outcome, failed: Mapping[str, str]) -> str:
    """Why a search that ran to its end has no result; empty where it has one, or failed nowhere.

    Args:
        failed: why repetitions over seeds failed, by key.
    """
    trials = outcome.trials
    if any(trial.state == "finished" for trial in trials):
        lost = not winner(outcome) and any(t.state == "finished" and t.feasible for t in trials)
        return f"every repetition failed: {_reasons(failed.values())}" if lost and failed else ""
    reasons = [trial.reason for trial in trials if trial.state == "failed"]
    if not reasons:
        return ""
    all_of = "its only trial" if len(trials) == 1 else f"{len(reasons)} of {len(trials)} trials"
    return f"no trial finished; {all_of} failed: {_reasons(reasons)}"


def _reasons(found: Iterable[str]) -> str:
    """The most frequent of them, each once."""
    counted = Counter(found).most_common()
    some = [f"{why} ({n} times)" if n > 1 else why for why, n in counted[:MOST_REASONS]]
    more = len(counted) - MOST_REASONS
    return "; ".join(some) + (f"; and {more} other reasons" if more > 0 else "")
