"""Makes the paths of an experiment absolute when it is launched.

A file may contain ``library: stillhouse-library`` or ``root: data``, relative to the working
folder. Later commands read the run from other folders, so a launch writes absolute paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.places import absolute_address
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import FactorialSettings
from stillhouse.search.experiment.setting_paths import SearchSpace
from stillhouse.search.monitoring.mlflow import resolve_uri
from stillhouse.spaces.config.domains import Choice, Domain


def with_absolute_paths(experiment: Experiment, base: Path) -> Experiment:
    """The experiment with every relative path resolved from the folder ``base``.

    These are the library, MLflow's database, roots of data, and files of weights and word vectors,
    also in searched values and techniques. No key of a stage depends on them.

    Raises:
        ConfigError: the library or MLflow's URI cannot be used.
    """
    data = experiment.data.model_dump(mode="json", exclude_defaults=True)
    resolve_vectors = not any(_named_roots(experiment.stages)) and not _searches_root(experiment)
    return replace(
        experiment,
        data=DataConfig.parse(_absolute_value("data", data, base, resolve_vectors), "data"),
        stages=_absolute_value(
            "stages", experiment.stages, base, resolve_vectors, experiment.data.root
        ),
        search=_absolute_space(experiment.search, base),
        factorial=_absolute_factorial(experiment.factorial, base),
        library=_absolute_library(experiment.library, base),
        tracking=resolve_uri(experiment.tracking, base),
    )


def document_with_absolute_paths(document: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The same for a document that an earlier version wrote.

    Searched paths stay relative: the study has them as values.
    """
    resolved = {**document}
    for part in ("data", "stages"):
        if isinstance(resolved.get(part), Mapping):
            resolved[part] = _absolute_value(part, resolved[part], base, resolve_vectors=False)
    library, tracking = resolved.get("library", "stillhouse-library"), resolved.get("tracking")
    if isinstance(library, str):
        resolved["library"] = _absolute_library(library, base)
    if isinstance(tracking, str | None):
        resolved["tracking"] = resolve_uri(tracking, base)
    return resolved


def is_relative_location(location: str | None) -> bool:
    """Whether the location of a library or MLflow store depends on the working folder."""
    if not location:
        return True
    scheme, separator, file = location.partition(":///")
    if separator:
        return scheme.startswith("sqlite") and not file.startswith(("/", "~"))
    return (
        "://" not in location and location != "databricks" and not location.startswith(("/", "~"))
    )


def _absolute_value(
    key: str, value: Any, base: Path, resolve_vectors: bool, root: str | None = None
) -> Any:
    """A value of the file with absolute paths.

    Args:
        key: the name of the value, which decides whether it is a path.
        resolve_vectors: False if roots differ between entries; the root is then made absolute.
        root: files of word vectors are relative to it.
    """
    if isinstance(value, str):
        return _join(base, value) if key in ("root", "weights") else value
    if isinstance(value, list | tuple):
        return type(value)(_absolute_value("", item, base, resolve_vectors, root) for item in value)
    if not isinstance(value, Mapping):
        return value
    own_root = value.get("root", root)
    root = own_root if isinstance(own_root, str) else root
    resolved = {
        k: _absolute_value(str(k), inner, base, resolve_vectors, root) for k, inner in value.items()
    }
    if key == "weights" and isinstance(resolved.get("path"), str):
        resolved["path"] = _join(base, resolved["path"])
    if key == "embedding" and resolve_vectors and isinstance(resolved.get("path"), str):
        resolved["path"] = _join(base / Path(root or "").expanduser(), resolved["path"])
    return resolved


def _absolute_space(space: SearchSpace, base: Path) -> dict[str, Domain]:
    return {path: _absolute_domain(path, domain, base) for path, domain in space.items()}


def _absolute_domain(path: str, domain: Domain, base: Path) -> Domain:
    if not isinstance(domain, Choice):
        return domain
    return Choice(tuple(_absolute_value_at(path, value, base) for value in domain.values))


def _absolute_factorial(
    factorial: FactorialSettings | None, base: Path
) -> FactorialSettings | None:
    if factorial is None:
        return None
    techniques = {
        name: {path: _absolute_value_at(path, value, base) for path, value in changes.items()}
        for name, changes in factorial.techniques.items()
    }
    return factorial.model_copy(update={"techniques": techniques})


def _absolute_value_at(path: str, value: Any, base: Path) -> Any:
    """A value that replaces the one at ``path``, with absolute paths."""
    *_, parent_key, key = ("", *path.split("."))
    if (parent_key, key) == ("weights", "path"):
        key = "weights"
    return _absolute_value(key, value, base, resolve_vectors=False)


def _searches_root(experiment: Experiment) -> bool:
    """Whether a searched value or a technique names another root."""
    techniques = experiment.factorial.techniques if experiment.factorial else {}
    paths = [*experiment.search, *(path for changes in techniques.values() for path in changes)]
    return any(path.endswith((".root", ".source")) for path in paths)


def _named_roots(value: Any) -> Iterator[str]:
    """Every ``root`` in a nested value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "root" and isinstance(inner, str):
                yield inner
            yield from _named_roots(inner)


def _absolute_library(uri: str, base: Path) -> str:
    return absolute_address(uri if "://" in uri else _join(base, uri))


def _join(base: Path, path: str) -> str:
    """Join without normalising: two spellings of a path stay two values of a search."""
    return os.path.join(base.absolute(), os.path.expanduser(path))
