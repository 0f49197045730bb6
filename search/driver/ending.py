"""The end of a search: its state file, its final steps, and the reasons of failures."""

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
"""Distinct failure reasons in one line."""
_UNWRITABLE_ERRNOS = (*FORBIDDEN_ERRNOS, errno.ENOENT, errno.ENOTDIR)
ERRORS_FILE = "error.txt"
"""The file of the run folder with the tracebacks of failed final steps."""


class StateFile:
    """``state.json`` of a run: its state, the reason of a failure, and its total seconds."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._started_at = time.monotonic()
        data = folder.read_json("state.json")
        self.previous_state = str(data.get("state", ""))
        self.previous_seconds = folder.seconds_so_far()

    @property
    def seconds(self) -> float:
        """Total seconds of this launch and all earlier ones."""
        return self.previous_seconds + time.monotonic() - self._started_at

    def write(self, state: str, reason: str = "") -> None:
        """Write the state, also on a full disk; without effect on a read-only one."""
        data = {"state": state, "seconds": self.seconds, **({"reason": reason} if reason else {})}
        try:
            self._folder.write_json("state.json", data)
        except OSError:
            with contextlib.suppress(OSError):
                self._overwrite(json.dumps(data))

    def _overwrite(self, text: str) -> None:
        """Overwrite the old file in place, which needs no free space."""
        with (self._folder.path / "state.json").open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()


class FinalSteps:
    """The final steps of a search: each is tried, and one that fails stops no other.

    Args:
        folder: the run folder; its ``error.txt`` gets the tracebacks.
        addresses: their secrets are removed from messages.
    """

    def __init__(self, folder: RunFolder, *addresses: str | None) -> None:
        self._folder = folder
        self._addresses = addresses
        self.failures: list[str] = []

    @property
    def reason(self) -> str:
        """All failures in one line; empty if there are none."""
        return "; ".join(self.failures)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the failure of the block under ``name``; Ctrl-C is raised."""
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
    """One line for an error of a known kind; None if only its traceback explains it."""
    if isinstance(error, ConfigError):
        return "; ".join(str(problem) for problem in error.problems)
    unavailable = error if isinstance(error, StorageUnavailable) else unwritable(error, folder)
    return str(unavailable) if unavailable else None


def unwritable(error: BaseException, folder: RunFolder) -> StorageUnavailable | None:
    """The error for a full or read-only run folder; None for any other cause."""
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
        if line := _disk_full_line(cause):  # Ray and Tune put the error into their own text
            return StorageUnavailable(
                "runs", f"{folder.path} cannot be written: {line}; make room there"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _disk_full_line(error: BaseException) -> str:
    """The line about a full disk in the message of another kind of error."""
    if isinstance(error, StorageUnavailable | ConfigError):
        return ""  # it concerns other storage, and has one line already
    lines = str(error).splitlines()
    return next((line.strip() for line in lines if "No space left on device" in line), "")


def _is_unwritable(error: OSError, folder: RunFolder) -> bool:
    """Whether the error is a file of the run folder that must not be written."""
    file = str(error.filename or "")
    return error.errno in _UNWRITABLE_ERRNOS and file.startswith(str(folder.path))


def no_result_reason(outcome: Outcome, failed_repeats: Mapping[str, str]) -> str:
    """Why a search that ran to its end has no result; empty if it has one, or nothing failed.

    Args:
        failed_repeats: key of a failed repetition -> reason.
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
    """The most frequent reasons, each once."""
    counted = Counter(reasons).most_common()
    listed = [f"{reason} ({n} times)" if n > 1 else reason for reason, n in counted[:MAX_REASONS]]
    num_more = len(counted) - MAX_REASONS
    return "; ".join(listed) + (f"; and {num_more} other reasons" if num_more > 0 else "")
