"""Formats in which a student leaves: every file here is one."""

from search.format import Format
from spaces.plugins import Folder

FORMATS: Folder[Format] = Folder("search.formats", Format, "format")
