"""How a search ends: what it came to is written first, and its state is told whatever fails."""

from __future__ import annotations

import contextlib
import errno
import json
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from stillhouse.search.core.addresses import scrub
from stillhouse.search.core.errors import FORBIDDEN_ERRNOS, FULL_ERRNOS, StorageUnavailable
from stillhouse.search.results.outcome import Outcome, winner
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.problems import ConfigError, first_line

MAX_REASONS = 3
"""Different reasons of failures that one line names."""
_UNWRITABLE_ERRNOS = (*FORBIDDEN_ERRNOS, errno.ENOENT, errno.ENOTDIR)
ERRORS_FILE = "error.txt"
"""In the run's folder: what failed, in full."""


class StateFile:
    """``state.json`` of a run: its state, why it failed, and the seconds it took in all."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._started_at = time.monotonic()
        data = folder.read_json("state.json")
        self.previous_state = str(data.get("state", ""))
        self.previous_seconds = folder.seconds_so_far()

    @property
    def seconds(self) -> float:
        """Of this launch and of all before it."""
        return self.previous_seconds + time.monotonic() - self._started_at

    def write(self, state: str, reason: str = "") -> None:
        """Write the state, also on a full disk; nothing where nothing can be written."""
        data = {"state": state, "seconds": self.seconds, **({"reason": reason} if reason else {})}
        try:
            self._folder.write_json("state.json", data)
        except OSError:
            with contextlib.suppress(OSError):
                self._overwrite(json.dumps(data))

    def _overwrite(self, text: str) -> None:
        """In the old file's own place, which a full disk need not find anew."""
        with (self._folder.path / "state.json").open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()


class FinalSteps:
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
    def step(self, name: str) -> Iterator[None]:
        """Try ``name``; Ctrl-C goes through."""
        try:
            yield
        except Exception as error:
            reason = known_reason(error, self._folder)
            if reason is None:
                self._append_traceback(error)
                description = f"{type(error).__name__}: {first_line(error)}"
                reason = f"{description} (in full in {self._folder.path / ERRORS_FILE})"
            self.failures.append(f"{name} failed: {scrub(reason, *self._addresses)}")

    def _append_traceback(self, error: Exception) -> None:
        text = scrub("".join(traceback.format_exception(error)), *self._addresses)
        with (
            contextlib.suppress(OSError),
            (self._folder.path / ERRORS_FILE).open("a", encoding="utf-8") as file,
        ):
            file.write(text)


def failure_reason(error: BaseException, folder: RunFolder, *addresses: str | None) -> str:
    """Why a search failed, in one line without the secrets of ``addresses``."""
    reason = known_reason(error, folder)
    return scrub(first_line(error) if reason is None else reason, *addresses)


def known_reason(error: BaseException, folder: RunFolder) -> str | None:
    """A line that says all of an error; none where only its traceback does."""
    if isinstance(error, ConfigError):
        return "; ".join(str(problem) for problem in error.problems)
    unavailable = error if isinstance(error, StorageUnavailable) else unwritable(error, folder)
    return str(unavailable) if unavailable else None


def unwritable(error: BaseException, folder: RunFolder) -> StorageUnavailable | None:
    """The run's folder as a place that takes no more, if the error says so."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (
            cause.errno in FULL_ERRNOS or _is_unwritable(cause, folder)
        ):
            remedy = "make room there" if cause.errno in FULL_ERRNOS else "make it writable"
            file = cause.filename or folder.path
            return StorageUnavailable(
                "runs", f"{file} cannot be written: {cause.strerror}; {remedy}"
            )
        if line := _disk_full_line(cause):  # as Ray and Tune pass it on
            return StorageUnavailable(
                "runs", f"{folder.path} cannot be written: {line}; make room there"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _disk_full_line(error: BaseException) -> str:
    """The line of an error of another kind that tells of a full disk."""
    if isinstance(error, StorageUnavailable | ConfigError):
        return ""  # of another place, and one line already
    lines = str(error).splitlines()
    return next((line.strip() for line in lines if "No space left on device" in line), "")


def _is_unwritable(error: OSError, folder: RunFolder) -> bool:
    """Whether something in the run's folder may not be written."""
    file = str(error.filename or "")
    return error.errno in _UNWRITABLE_ERRNOS and file.startswith(str(folder.path))


def no_result_reason(outcome: Outcome, failed_repeats: Mapping[str, str]) -> str:
    """Why a search that ran to its end has no result; empty where it has one, or failed nowhere.

    Args:
        failed: why repetitions over seeds failed, by key.
    """
    trials = outcome.trials
    if any(trial.state == "finished" for trial in trials):
        has_no_winner = not winner(outcome) and any(
            t.state == "finished" and t.feasible for t in trials
        )
        return (
            f"every repetition failed: {_most_frequent(failed_repeats.values())}"
            if has_no_winner and failed_repeats
            else ""
        )
    reasons = [trial.reason for trial in trials if trial.state == "failed"]
    if not reasons:
        return ""
    all_of = "its only trial" if len(trials) == 1 else f"{len(reasons)} of {len(trials)} trials"
    return f"no trial finished; {all_of} failed: {_most_frequent(reasons)}"


def _most_frequent(reasons: Iterable[str]) -> str:
    """The most frequent of them, each once."""
    counted = Counter(reasons).most_common()
    listed = [f"{reason} ({n} times)" if n > 1 else reason for reason, n in counted[:MAX_REASONS]]
    num_more = len(counted) - MAX_REASONS
    return "; ".join(listed) + (f"; and {num_more} other reasons" if num_more > 0 else "")
