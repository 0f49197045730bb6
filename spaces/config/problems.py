"""A user's mistake, said in one line: where it is, what was found, what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""What colours a terminal; libraries put it into their errors."""
MAX_LISTED_NAMES = 24
"""Of more names than these a message lists the nearest half as many."""


@dataclass(frozen=True)
class Problem:
    """One mistake. ``path`` is the dotted place in the experiment (or the file) it concerns."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ValueError):
    """Raised for what a user wrote wrongly; holds every problem found, one line each."""

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = [Problem("", problems)]
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)

    def with_prefix(self, path: str) -> ConfigError:
        """The same problems, seen from one level further out."""
        return ConfigError(
            Problem(".".join(filter(None, (path, p.path))), p.message) for p in self.problems
        )


def plain_lines(text: str) -> list[str]:
    """The lines of another library's message, without terminal codes; none of an empty one."""
    return _TERMINAL_CODES.sub("", text).strip().splitlines()


def first_line(error: BaseException) -> str:
    """What another library's error says first, without terminal codes; its type if it is mute."""
    return next(iter(plain_lines(str(error))), type(error).__name__)


def unknown_message(kind: str, name: object, allowed: Iterable[str]) -> str:
    """The message for a name that does not exist: nearest match first, then what there is."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    listing = ", ".join(names) or "none"
    if len(names) > MAX_LISTED_NAMES:
        nearest_names = sorted(
            difflib.get_close_matches(str(name), names, n=MAX_LISTED_NAMES // 2, cutoff=0.0)
        )
        listing = f"{', '.join(nearest_names)} and {len(names) - len(nearest_names)} more"
    return f"unknown {kind} {name!r}; {hint}allowed: {listing}"
