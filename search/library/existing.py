"""A library that is there already: to look at one must not begin one."""

from __future__ import annotations

from pathlib import Path

from search.address import shown
from search.library.place import absolute
from search.library.store import Library
from spaces.problem import ConfigError, Problem


def existing(uri: str) -> Library:
    """The library at ``uri``; nothing is created.

    Raises:
        ConfigError: there is none, or its place cannot be reached.
        Lost: an object store does not answer, or has no such bucket.
    """
    place = absolute(uri)
    if "://" not in place and not Path(place).is_dir():
        raise _none(place)
    library = Library(place, found=True)
    if not library.begun:
        raise _none(place)
    return library


def _none(place: str) -> ConfigError:
    message = f"there is no library at {shown(place)}; name its folder or URI: --library PLACE"
    return ConfigError([Problem("--library", message)])
