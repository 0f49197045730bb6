"""Files that match a pattern, and a check that no shard of a set is missing."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stillhouse.methods.core.data.base.file_kinds import os_error_message, read_obstacle
from stillhouse.methods.core.data.base.source import root_error

SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
)
"""Folders that operating systems create among a user's files."""
_SHARD_NAME = re.compile(r"^(?P<set>.*?)(?P<number>\d+)-of-(?P<total>\d+)(?P<rest>\D.*|)$")
_MAX_LISTED_FILES = 4


class _Shard(NamedTuple):
    path: Path
    number: int
    total: int
    width: int
    """Number of digits of the shard number."""


def is_hidden(name: str) -> bool:
    """Whether a name begins with a dot or is one of ``SYSTEM_FOLDERS``."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def matching_files(root: Path, pattern: str) -> tuple[Path, ...]:
    """The files under ``root`` that match, sorted; hidden ones only if the pattern names them.

    Raises:
        ConfigError: ``root`` cannot be read, or ``pattern`` is no relative pattern.
    """
    pattern_parts = set(Path(pattern).parts)
    if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):
        raise root_error(f"{root} cannot be read: permission denied")
    try:
        paths = sorted(root.glob(pattern))
    except OSError as error:
        raise root_error(f"{root} {os_error_message(error)}") from None
    except (ValueError, NotImplementedError) as error:
        message = f"{pattern!r} must be a pattern of files below {root}, like train*"
        raise root_error(f"{message} ({error})") from None
    depth = len(root.parts)
    return tuple(
        path
        for path in paths
        if not any(
            is_hidden(p) and p not in pattern_parts and p != ".." for p in path.parts[depth:]
        )
    )


def check_files(paths: Iterable[Path]) -> None:
    """Check that each path is a readable file and that no shard of a set is missing.

    Raises:
        ConfigError: the message names the first unreadable path or the missing shards.
    """
    paths = tuple(paths)
    for path in paths:
        if problem := read_obstacle(path):
            hint = f", like {path.name}/*{path.suffix}" if os.path.isdir(path) else ""
            raise root_error(f"{path} {problem}{hint}")
    sets: dict[tuple[Path, str], list[_Shard]] = defaultdict(list)
    for path in paths:
        if match := _SHARD_NAME.match(path.name):
            number = match["number"]
            shard = _Shard(path, int(number), int(match["total"]), len(number))
            sets[path.parent, match["set"]].append(shard)
    for shards in sets.values():
        _check_shard_set(shards)


def _check_shard_set(shards: list[_Shard]) -> None:
    first = shards[0]
    for other in shards[1:]:
        if other.total != first.total:
            message = f"{first.path} and {other.path.name} belong to sets of different sizes"
            raise root_error(f"{message}; leave one of the sets, or name it by the pattern")
    by_number: dict[int, _Shard] = {}
    for shard in shards:
        if shard.number in by_number:
            other_name = by_number[shard.number].path.name
            message = f"{shard.path} and {other_name} are the same shard of a set"
            raise root_error(f"{message}; leave one of them")
        by_number[shard.number] = shard
    # Some writers count from 1.
    start = 1 if first.total in by_number and 0 not in by_number else 0
    missing = (n for n in range(start, start + first.total) if n not in by_number)
    if first_missing := list(itertools.islice(missing, _MAX_LISTED_FILES)):
        count = first.total - len(shards)
        names = ", ".join(_shard_names(first, first_missing))
        more = f" and {count - len(first_missing)} more" if count > len(first_missing) else ""
        message = f"{first.path.parent} has {len(shards)} of the {first.total} files that"
        raise root_error(f"{message} {first.path.name} belongs to; missing: {names}{more}")


def _shard_names(shard: _Shard, numbers: Iterable[int]) -> Iterator[str]:
    """File names like that of ``shard``, with these numbers."""
    match = _SHARD_NAME.match(shard.path.name)
    assert match is not None
    # A content hash in the name of a missing file is unknown.
    suffix = match["rest"] if "-" not in match["rest"] else f"*{shard.path.suffix}"
    for number in numbers:
        yield f"{match['set']}{number:0{shard.width}d}-of-{match['total']}{suffix}"
