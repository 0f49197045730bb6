"""Registries of plug-ins: the file ``methods/soft_targets.py`` is the method ``soft_targets``."""

from __future__ import annotations

import importlib
import os
import pkgutil
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from stillhouse.spaces.config.problems import ConfigError, unknown_message

Base = TypeVar("Base")


@dataclass(frozen=True)
class PluginRegistry(Generic[Base]):
    """The plug-ins of one package: every module in it defines one public subclass of ``base``.

    ``label`` names a plug-in in messages ("method", "network family", ...).
    """

    package: str
    base: type[Base]
    label: str

    def names(self) -> tuple[str, ...]:
        """All plug-ins, sorted. Sub-packages and files that begin with ``_`` are not plug-ins."""
        paths = tuple(importlib.import_module(self.package).__path__)
        return _module_names(paths, tuple(os.stat(path).st_mtime_ns for path in paths))

    def load(self, name: str) -> type[Base]:
        """The class that the file ``name`` defines.

        Raises:
            ConfigError: there is no such file; the message gives the nearest name.
        """
        if name not in self.names():
            raise ConfigError(unknown_message(self.label, name, self.names()))
        module = importlib.import_module(f"{self.package}.{name}")
        classes: list[type[Base]] = [v for v in vars(module).values() if self._is_plugin(v, module)]
        assert len(classes) == 1, f"{module.__name__} must define one {self.base.__name__}"
        return classes[0]

    def _is_plugin(self, value: Any, module: Any) -> bool:
        return (
            isinstance(value, type)
            and issubclass(value, self.base)
            and value.__module__ == module.__name__
            and not value.__name__.startswith("_")
        )


@lru_cache
def _module_names(paths: tuple[str, ...], _modification_times: tuple[int, ...]) -> tuple[str, ...]:
    """Cached until a folder changes, because a search reads the names with every proposal."""
    modules = pkgutil.iter_modules(paths)
    return tuple(sorted(m.name for m in modules if not m.ispkg and not m.name.startswith("_")))
