"""Load and check an experiment file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.search.core.addresses import scrub
from stillhouse.search.experiment.checks import check_experiment, parse_search_space
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.schema import TOP_LEVEL_FIELDS, ExperimentFile
from stillhouse.search.experiment.setting_paths import SearchSpace, get_value, set_value, split_path
from stillhouse.search.experiment.stage_graph import parse_stages
from stillhouse.search.experiment.yaml_source import (
    MAX_DEPTH,
    Document,
    is_encodable,
    parse_document,
    read_document,
)
from stillhouse.search.stages.core.config import StageConfig
from stillhouse.spaces.config.domains import ConditionalDomain
from stillhouse.spaces.config.problems import ConfigError, Problem


def load_experiment(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    read_only: bool = False,
) -> Experiment:
    """Read and check an experiment.

    Args:
        source: path of the YAML file, or its plain data.
        overrides: dotted path -> value, applied to the file first (``run.trials``: 5).
            ``student.training.lr`` is short for ``stages.student.training.lr``. If a stage has the
            name of a top-level field, the short path means the field.
        read_only: nothing will run, see ``check_experiment``.

    Raises:
        ConfigError: all problems, one line each, with file, line and path.
    """
    if isinstance(source, Mapping):
        document = parse_document(to_yaml(_tuples_to_lists(source)), "experiment")
    else:
        document = read_document(Path(source))
    if not isinstance(document.data, dict):
        raise ConfigError([Problem(document.file, "needs name, data and stages; see experiments/")])
    _apply_overrides(document, overrides or {})
    try:
        return _build_checked(document, read_only)
    except ConfigError as error:
        raise _scrub_messages(document.locate(error)) from None


def _scrub_messages(error: ConfigError) -> ConfigError:
    """Remove passwords: a value at the place of an address may contain one."""
    return ConfigError(Problem(problem.path, scrub(problem.message)) for problem in error.problems)


def _apply_overrides(document: Document, overrides: Mapping[str, Any]) -> None:
    stages = document.data.get("stages")
    for path, value in overrides.items():
        top_name = split_path(path)[0]
        is_shorthand = (
            isinstance(stages, Mapping) and top_name in stages and top_name not in TOP_LEVEL_FIELDS
        )
        full_path = f"stages.{path}" if is_shorthand else path
        if len(split_path(full_path)) > MAX_DEPTH:
            raise ConfigError([Problem("--set", f"a path has at most {MAX_DEPTH} steps")])
        if not is_encodable(json.dumps([path, value], ensure_ascii=False, default=str)):
            raise ConfigError([Problem("--set", f"{path!r} or its value is no text")])
        set_value(document.data, full_path, value)
        document.overridden.add(full_path)


def _build_checked(document: Document, read_only: bool) -> Experiment:
    settings, stage_configs = _parse_file(document.data)
    space, problems = parse_search_space(settings, stage_configs)
    experiment = Experiment(
        name=settings.name,
        data=settings.data,
        stages=_with_initial_values(_tuples_to_lists(settings.stages), space),
        search=space,
        goal=settings.goal,
        run=settings.run,
        library=settings.library,
        tracking=settings.tracking,
        study=settings.study,
        factorial=settings.factorial,
    )
    check_experiment(experiment, problems, read_only)
    return experiment


def _with_initial_values(stages: dict[str, Any], space: SearchSpace) -> dict[str, Any]:
    """The entries, runnable also if only the search decides their objective."""
    for path, domain in space.items():
        if isinstance(domain, ConditionalDomain) and "*" not in path:
            set_value(stages, path, domain.initial_value(get_value(stages, path)))
    return stages


def _parse_file(data: Mapping[str, Any]) -> tuple[ExperimentFile, dict[str, StageConfig]]:
    """Parse the file and its stages; problems of both are raised together."""
    problems: list[Problem] = []
    stage_configs: dict[str, StageConfig] = {}
    try:
        settings = ExperimentFile.parse(data)
    except ConfigError as error:
        problems.extend(error.problems)
    stages = data.get("stages")
    if isinstance(stages, Mapping):
        try:
            stage_mappings = {
                name: stage_data
                for name, stage_data in stages.items()
                if isinstance(stage_data, Mapping)
            }
            stage_configs = parse_stages(stage_mappings)
        except ConfigError as error:
            problems.extend(error.with_prefix("stages").problems)
    if problems:
        raise ConfigError(problems)
    return settings, stage_configs


def _tuples_to_lists(data: Any) -> Any:
    """Convert tuples to lists, as YAML writes them."""
    if isinstance(data, Mapping):
        return {key: _tuples_to_lists(value) for key, value in data.items()}
    return [_tuples_to_lists(item) for item in data] if isinstance(data, list | tuple) else data
