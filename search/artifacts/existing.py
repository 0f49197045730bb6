"""Open an existing library: reading a library must not create one."""

from __future__ import annotations

from pathlib import Path

from stillhouse.search.artifacts.places import absolute_address
from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import for_display
from stillhouse.spaces.config.problems import ConfigError, Problem


def open_existing(address: str) -> Library:
    """The library at ``address``; never creates one.

    Raises:
        ConfigError: there is no library, or its address cannot be opened.
        StorageUnavailable: an object store does not answer, or has no such bucket.
    """
    library = find_library(address)
    if library is None or not library.is_initialised:
        message = f"there is no library at {for_display(absolute_address(address))}"
        remedy = "name its folder or URI: --library PLACE"
        raise ConfigError([Problem("--library", f"{message}; {remedy}")])
    return library


def find_library(uri: str) -> Library | None:
    """The library at ``uri``; None if the folder is missing or contains no library.

    This does not check an object store, since a store that is down answers late.
    """
    address = absolute_address(uri)
    if "://" in address:
        return Library(address, must_exist=True)
    if not Path(address).is_dir():
        return None
    library = Library(address, must_exist=True)
    return library if library.is_initialised else None
