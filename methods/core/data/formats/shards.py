"""The files that a pattern finds, and whether all shards of a set are among them."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stillhouse.methods.core.data.base.file_kinds import obstacle, reason
from stillhouse.methods.core.data.base.source import root_problem

SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
)
"""Folders that operating systems leave among a user's files."""
_SHARD = re.compile(r"^(?P<set>.*?)(?P<number>\d+)-of-(?P<total>\d+)(?P<rest>\D.*|)$")
_MOST_NAMED = 4


class _Shard(NamedTuple):
    path: Path
    number: int
    total: int
    width: int
    """Digits in which the number is written."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no user's: its name begins with a dot, or a system's own."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def matching(root: Path, pattern: str) -> tuple[Path, ...]:
    """The files under ``root`` that match, sorted; hidden ones only where the pattern names them.

    Raises:
        ConfigError: ``root`` cannot be read, or ``pattern`` is no pattern below it.
    """
    named = set(Path(pattern).parts)
    if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):
        raise root_problem(f"{root} cannot be read: permission denied")
    try:
        found = sorted(root.glob(pattern))
    except OSError as error:
        raise root_problem(f"{root} {reason(error)}") from None
    except (ValueError, NotImplementedError) as error:
        message = f"{pattern!r} must be a pattern of files below {root}, like train*"
        raise root_problem(f"{message} ({error})") from None
    depth = len(root.parts)
    return tuple(
        path
        for path in found
        if not any(is_hidden(p) and p not in named and p != ".." for p in path.parts[depth:])
    )


def check_files(paths: Iterable[Path]) -> None:
    """That each path is a file that can be read, and that no shard of a set is missing.

    Raises:
        ConfigError: one problem, which names the first such path or the missing shards.
    """
    paths = tuple(paths)
    for path in paths:
        if found := obstacle(path):
            hint = f", like {path.name}/*{path.suffix}" if os.path.isdir(path) else ""
            raise root_problem(f"{path} {found}{hint}")
    sets: dict[tuple[Path, str], list[_Shard]] = defaultdict(list)
    for path in paths:
        if told := _SHARD.match(path.name):
            number = told["number"]
            shard = _Shard(path, int(number), int(told["total"]), len(number))
            sets[path.parent, told["set"]].append(shard)
    for shards in sets.values():
        _check_set(shards)


def _check_set(shards: list[_Shard]) -> None:
    first = shards[0]
    for other in shards[1:]:
        if other.total != first.total:
            message = f"{first.path} and {other.path.name} belong to sets of different sizes"
            raise root_problem(f"{message}; leave one of the sets, or name it by the pattern")
    by_number: dict[int, _Shard] = {}
    for shard in shards:
        if shard.number in by_number:
            twin = by_number[shard.number].path.name
            message = f"{shard.path} and {twin} are the same shard of a set"
            raise root_problem(f"{message}; leave one of them")
        by_number[shard.number] = shard
    # Some writers count from 1.
    start = 1 if first.total in by_number and 0 not in by_number else 0
    missing = (n for n in range(start, start + first.total) if n not in by_number)
    if some := list(itertools.islice(missing, _MOST_NAMED)):
        count = first.total - len(shards)
        names = ", ".join(_names(first, some))
        more = f" and {count - len(some)} more" if count > len(some) else ""
        message = f"{first.path.parent} has {len(shards)} of the {first.total} files that"
        raise root_problem(f"{message} {first.path.name} belongs to; missing: {names}{more}")


def _names(like: _Shard, numbers: Iterable[int]) -> Iterator[str]:
    """File names as ``like`` has one, with these numbers."""
    told = _SHARD.match(like.path.name)
    assert told is not None
    # What follows a hash of the content cannot be known.
    rest = told["rest"] if "-" not in told["rest"] else f"*{like.path.suffix}"
    for number in numbers:
        yield f"{told['set']}{number:0{like.width}d}-of-{told['total']}{rest}"
