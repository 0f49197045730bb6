"""A library that is there already: to look at one must not begin one."""

from __future__ import annotations

from pathlib import Path

from stillhouse.search.artifacts.places import absolute
from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import shown
from stillhouse.spaces.config.problems import ConfigError, Problem


def existing(uri: str) -> Library:
    """The library at ``uri``; nothing is created.

    Raises:
        ConfigError: there is none, or its place cannot be reached.
        Lost: an object store does not answer, or has no such bucket.
    """
    library = find_library(uri)
    if library is None or not library.begun:
        message = f"there is no library at {shown(absolute(uri))}"
        remedy = "name its folder or URI: --library PLACE"
        raise ConfigError([Problem("--library", f"{message}; {remedy}")])
    return library


def find_library(uri: str) -> Library | None:
    """The library at ``uri``; none where its folder is missing, or has nothing of a library.

    An object store is not asked whether it has something: one that is away would answer late.
    """
    place = absolute(uri)
    if "://" in place:
        return Library(place, found=True)
    if not Path(place).is_dir():
        return None
    library = Library(place, found=True)
    return library if library.begun else None
