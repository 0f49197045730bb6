"""Whatever lies in a plug-in folder can be loaded, and describes itself."""

import inspect

import pytest

from stillhouse.methods.core.data.sources import SOURCES
from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.search.stages.core.config import STAGE_KINDS
from stillhouse.spaces.blocks import BLOCKS
from stillhouse.spaces.networks import FAMILIES

FOLDERS = (FAMILIES, BLOCKS, METHODS, SOURCES, STAGE_KINDS)
PLUGINS = [(folder, name) for folder in FOLDERS for name in folder.names()]
MOST_LINES = 300


@pytest.mark.parametrize(("folder", "name"), PLUGINS, ids=lambda part: getattr(part, "label", part))
def test_a_file_is_a_plugin(folder, name):
    plugin = folder.load(name)
    assert issubclass(plugin, folder.base)
    assert plugin is not folder.base
    assert inspect.getdoc(plugin) != inspect.getdoc(folder.base)
    assert isinstance(getattr(plugin, "version", 1), int)
    source = inspect.getsource(inspect.getmodule(plugin))
    assert len(source.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.label)
def test_no_folder_is_empty(folder):
    assert folder.names()
