"""Export formats, one a file."""

from stillhouse.search.export.format import Format
from stillhouse.spaces.config.plugins import PluginRegistry

FORMATS: PluginRegistry[Format] = PluginRegistry(
    "stillhouse.search.export.formats", Format, "format"
)
