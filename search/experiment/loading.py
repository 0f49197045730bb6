"""From a file to a checked experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.search.core.addresses import hushed
from stillhouse.search.experiment.checks import check, read_space
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.schema import ExperimentFile
from stillhouse.search.experiment.setting_paths import Space, at, parts, put
from stillhouse.search.experiment.stage_graph import parse_entries
from stillhouse.search.experiment.yaml_source import (
    DEEPEST,
    Document,
    is_text,
    parse_document,
    read_document,
)
from stillhouse.search.stages.core.config import Kind
from stillhouse.spaces.config.domains import Opening
from stillhouse.spaces.config.problems import ConfigError, Problem

TOP_LEVEL = tuple(ExperimentFile.model_fields)
"""Fields of an experiment file, which a path that is laid over it reaches first."""


def load_experiment(
    file: str | Path | Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    *,
    only_read: bool = False,
) -> Experiment:
    """Read and check an experiment.

    Args:
        file: path of the YAML file, or the same as plain data.
        changes: dotted path -> value, laid over the file first (``run.trials``: 5;
            ``student.training.lr`` is short for ``stages.student.training.lr``). Where a stage is
            called like a top-level field, the short path means that field.
        only_read: nothing of it will run, see :func:`stillhouse.search.experiment.checks.check`.

    Raises:
        ConfigError: everything that is wrong, one line each, with file, line and path.
    """
    if isinstance(file, Mapping):
        document = parse_document(to_yaml(_listed(file)), "experiment")
    else:
        document = read_document(Path(file))
    if not isinstance(document.data, dict):
        raise ConfigError([Problem(document.file, "needs name, data and stages; see experiments/")])
    _lay_over(document, changes or {})
    try:
        return _checked(document, only_read)
    except ConfigError as error:
        raise _hushed(document.locate(error)) from None


def _hushed(error: ConfigError) -> ConfigError:
    """What was found in the place of an address may hold a password as well."""
    return ConfigError(Problem(p.path, hushed(p.message)) for p in error.problems)


def _lay_over(document: Document, changes: Mapping[str, Any]) -> None:
    stages = document.data.get("stages")
    for path, value in changes.items():
        first = parts(path)[0]
        short = isinstance(stages, Mapping) and first in stages and first not in TOP_LEVEL
        whole = f"stages.{path}" if short else path
        if len(parts(whole)) > DEEPEST:
            raise ConfigError([Problem("--set", f"a path has at most {DEEPEST} steps")])
        if not is_text(json.dumps([path, value], ensure_ascii=False, default=str)):
            raise ConfigError([Problem("--set", f"{path!r} or its value is no text")])
        put(document.data, whole, value)
        document.laid_over.add(whole)


def _checked(document: Document, only_read: bool) -> Experiment:
    told, entries = _parsed(document.data)
    space, problems = read_space(told, entries)
    experiment = Experiment(
        name=told.name,
        data=told.data,
        stages=_begun(_listed(told.stages), space),
        search=space,
        goal=told.goal,
        run=told.run,
        library=told.library,
        tracking=told.tracking,
        study=told.study,
        factorial=told.factorial,
    )
    check(experiment, problems, only_read)
    return experiment


def _begun(stages: dict[str, Any], space: Space) -> dict[str, Any]:
    """The entries runnable as they stand, also where only a search says what they learn from."""
    for path, domain in space.items():
        if isinstance(domain, Opening) and "*" not in path:
            put(stages, path, domain.begun(at(stages, path)))
    return stages


def _parsed(data: Mapping[str, Any]) -> tuple[ExperimentFile, dict[str, Kind]]:
    """The file and its stages, each as settings; what is wrong with both is told together."""
    problems: list[Problem] = []
    entries: dict[str, Kind] = {}
    try:
        told = ExperimentFile.parse(data)
    except ConfigError as error:
        problems.extend(error.problems)
    stages = data.get("stages")
    if isinstance(stages, Mapping):
        try:
            whole = {name: entry for name, entry in stages.items() if isinstance(entry, Mapping)}
            entries = parse_entries(whole)
        except ConfigError as error:
            problems.extend(error.under("stages").problems)
    if problems:
        raise ConfigError(problems)
    return told, entries


def _listed(data: Any) -> Any:
    """Tuples as lists again, as YAML writes them."""
    if isinstance(data, Mapping):
        return {key: _listed(value) for key, value in data.items()}
    return [_listed(item) for item in data] if isinstance(data, list | tuple) else data
