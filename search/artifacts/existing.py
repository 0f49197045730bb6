"""A library that is there already: to look at one must not begin one."""

from __future__ import annotations

from pathlib import Path

from stillhouse.search.artifacts.places import absolute_address
from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import for_display
from stillhouse.spaces.config.problems import ConfigError, Problem


def open_existing(address: str) -> Library:
    """The library at ``address``; nothing is created.

    Raises:
        ConfigError: there is none, or its place cannot be reached.
        Lost: an object store does not answer, or has no such bucket.
    """
    library = find_library(address)
    if library is None or not library.is_initialised:
        message = f"there is no library at {for_display(absolute_address(address))}"
        remedy = "name its folder or URI: --library PLACE"
        raise ConfigError([Problem("--library", f"{message}; {remedy}")])
    return library


def find_library(uri: str) -> Library | None:
    """The library at ``uri``; none where its folder is missing, or has nothing of a library.

    An object store is not asked whether it has something: one that is away would answer late.
    """
    address = absolute_address(uri)
    if "://" in address:
        return Library(address, must_exist=True)
    if not Path(address).is_dir():
        return None
    library = Library(address, must_exist=True)
    return library if library.is_initialised else None
