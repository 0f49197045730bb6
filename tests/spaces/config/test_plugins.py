"""A folder is a registry: what lies in it is what there is."""

import importlib
import sys

import pytest

from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.config.problems import ConfigError

BASE = "class Animal:\n    pass\n"
PLUGIN = "from {package}._base import Animal\n\n\nclass {name}(Animal):\n    pass\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of two plug-ins, with machinery beside them."""
    package = "zoo_for_plugins"
    root = tmp_path / package
    (root / "core").mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "core" / "__init__.py").touch()
    (root / "_base.py").write_text(BASE)
    (root / "cat.py").write_text(PLUGIN.format(package=package, name="Cat"))
    dog = PLUGIN.format(package=package, name="_Canine")
    dog += "\n\nclass Dog(_Canine):\n    pass\n\n\nclass Lead:\n    pass\n"
    (root / "dog.py").write_text(f"from {package}.cat import Cat\n" + dog)
    monkeypatch.syspath_prepend(tmp_path)
    yield PluginRegistry(package, importlib.import_module(f"{package}._base").Animal, "animal")
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


def test_the_files_are_the_names(folder):
    assert folder.names() == ("cat", "dog")


def test_a_file_gives_its_one_public_class(folder):
    """Neither private bases, nor other classes, nor plug-ins it imports."""
    assert folder.load("cat").__name__ == "Cat"
    assert folder.load("dog").__name__ == "Dog"


def test_a_new_file_is_a_new_plugin(folder, tmp_path):
    source = PLUGIN.format(package="zoo_for_plugins", name="Emu")
    (tmp_path / "zoo_for_plugins" / "emu.py").write_text(source)
    importlib.invalidate_caches()
    assert folder.names() == ("cat", "dog", "emu")
    assert folder.load("emu").__name__ == "Emu"


@pytest.mark.parametrize("name", ["dgo", "core", "_base", "", "os", "cat.Cat"])
def test_what_is_not_there_is_refused(folder, name):
    with pytest.raises(ConfigError, match="unknown animal") as caught:
        folder.load(name)
    assert "allowed: cat, dog" in str(caught.value)


def test_the_nearest_name_is_offered(folder):
    with pytest.raises(ConfigError, match="did you mean 'dog'"):
        folder.load("dgo")


def test_a_file_with_two_plugins_is_a_bug(folder, tmp_path):
    path = tmp_path / "zoo_for_plugins" / "fox.py"
    source = PLUGIN.format(package="zoo_for_plugins", name="Fox")
    path.write_text(source + "\n\nclass Vixen(Fox):\n    pass\n")
    importlib.invalidate_caches()
    with pytest.raises(AssertionError, match="must define one Animal"):
        folder.load("fox")
