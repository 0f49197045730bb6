"""Mistakes of users: each message states the place, the value found and the values allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Terminal colour codes, which some libraries put into their errors."""
MAX_LISTED_NAMES = 24
"""A message with more names than this lists only the nearest ones, half as many."""


@dataclass(frozen=True)
class Problem:
    """One mistake. ``path`` is the dotted path of the setting, or the path of the file."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ValueError):
    """Raised for mistakes in a user's input; holds every problem, one line each."""

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = [Problem("", problems)]
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)

    def with_prefix(self, path: str) -> ConfigError:
        """The same problems, with ``path`` put before the path of each."""
        return ConfigError(
            Problem(".".join(filter(None, (path, p.path))), p.message) for p in self.problems
        )


def plain_lines(text: str) -> list[str]:
    """The lines of another library's message, without terminal codes."""
    return _TERMINAL_CODES.sub("", text).strip().splitlines()


def first_line(error: BaseException) -> str:
    """The first line of another library's error, without terminal codes; else its type."""
    return next(iter(plain_lines(str(error))), type(error).__name__)


def unknown_message(kind: str, name: object, allowed: Iterable[str]) -> str:
    """The message for a name that does not exist: the nearest match, then the allowed names."""
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
