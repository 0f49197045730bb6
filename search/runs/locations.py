"""Where the things of an experiment lie: fixed when it is launched.

A file may say ``library: stillhouse-library`` or ``root: data``, as seen from the working folder.
A run is looked at, resumed and used again from other folders. So a launch writes absolute places.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.places import absolute
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import Factorial
from stillhouse.search.experiment.setting_paths import Space
from stillhouse.search.monitoring.mlflow import resolve_uri
from stillhouse.spaces.config.domains import Choice, Domain


def fixed(experiment: Experiment, base: Path) -> Experiment:
    """The experiment with every relative place resolved from the folder ``base``.

    Places are the library, MLflow's database, roots of data, files of weights and of word vectors,
    also where they are searched or part of a technique. No stage's key depends on them.

    Raises:
        ConfigError: the library or MLflow's URI is none that can be used.
    """
    data = experiment.data.model_dump(mode="json", exclude_defaults=True)
    vectors = not any(_roots(experiment.stages)) and not _moves_root(experiment)
    return replace(
        experiment,
        data=DataConfig.parse(_fixed("data", data, base, vectors), "data"),
        stages=_fixed("stages", experiment.stages, base, vectors, experiment.data.root),
        search=_fixed_space(experiment.search, base),
        factorial=_fixed_factorial(experiment.factorial, base),
        library=_library(experiment.library, base),
        tracking=resolve_uri(experiment.tracking, base),
    )


def fixed_file(told: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The same for the data of a run's file that an earlier version wrote.

    Searched places stay as they are: the study knows its values by these names.
    """
    found = {**told}
    for part in ("data", "stages"):
        if isinstance(found.get(part), Mapping):
            found[part] = _fixed(part, found[part], base, vectors=False)
    library, tracking = found.get("library", "stillhouse-library"), found.get("tracking")
    if isinstance(library, str):
        found["library"] = _library(library, base)
    if isinstance(tracking, str | None):
        found["tracking"] = resolve_uri(tracking, base)
    return found


def is_relative(place: str | None) -> bool:
    """Whether a library's or MLflow's place depends on the working folder."""
    if not place:
        return True
    scheme, middle, file = place.partition(":///")
    if middle:
        return scheme.startswith("sqlite") and not file.startswith(("/", "~"))
    return "://" not in place and place != "databricks" and not place.startswith(("/", "~"))


def _fixed(key: str, value: Any, base: Path, vectors: bool, root: str | None = None) -> Any:
    """A value of the file's with the places in it resolved; ``key`` says what it is.

    Word vectors lie from ``root`` on. ``vectors`` is false where roots differ between entries:
    an absolute root then fixes them well enough.
    """
    if isinstance(value, str):
        return _joined(base, value) if key in ("root", "weights") else value
    if isinstance(value, list | tuple):
        return type(value)(_fixed("", item, base, vectors, root) for item in value)
    if not isinstance(value, Mapping):
        return value
    own = value.get("root", root)
    root = own if isinstance(own, str) else root
    found = {k: _fixed(str(k), inner, base, vectors, root) for k, inner in value.items()}
    if key == "weights" and isinstance(found.get("path"), str):
        found["path"] = _joined(base, found["path"])
    if key == "embedding" and vectors and isinstance(found.get("path"), str):
        found["path"] = _joined(base / Path(root or "").expanduser(), found["path"])
    return found


def _fixed_space(space: Space, base: Path) -> dict[str, Domain]:
    return {path: _fixed_domain(path, domain, base) for path, domain in space.items()}


def _fixed_domain(path: str, domain: Domain, base: Path) -> Domain:
    if not isinstance(domain, Choice):
        return domain
    return Choice(tuple(_fixed_at(path, value, base) for value in domain.values))


def _fixed_factorial(asked: Factorial | None, base: Path) -> Factorial | None:
    if asked is None:
        return None
    techniques = {
        name: {path: _fixed_at(path, value, base) for path, value in changes.items()}
        for name, changes in asked.techniques.items()
    }
    return asked.model_copy(update={"techniques": techniques})


def _fixed_at(path: str, value: Any, base: Path) -> Any:
    """A value that is laid over the file at ``path``."""
    *_, before, key = ("", *path.split("."))
    if (before, key) == ("weights", "path"):
        key = "weights"
    return _fixed(key, value, base, vectors=False)


def _moves_root(experiment: Experiment) -> bool:
    """Whether a searched value or a technique names another root."""
    techniques = experiment.factorial.techniques if experiment.factorial else {}
    paths = [*experiment.search, *(path for some in techniques.values() for path in some)]
    return any(path.endswith((".root", ".source")) for path in paths)


def _roots(value: Any) -> Iterator[str]:
    """Every root that is named in here."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "root" and isinstance(inner, str):
                yield inner
            yield from _roots(inner)


def _library(uri: str, base: Path) -> str:
    return absolute(uri if "://" in uri else _joined(base, uri))


def _joined(base: Path, path: str) -> str:
    """As it is written otherwise: two spellings of one place stay two values of a search."""
    return os.path.join(base.absolute(), os.path.expanduser(path))
