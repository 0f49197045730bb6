"""Read ``search:``: each searched path and its domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.methods.core.data.augmentation.augment import Augment
from stillhouse.methods.core.objective.composition import DOMAIN_PARSERS, Composition
from stillhouse.search.experiment.schema import ExperimentFile
from stillhouse.search.experiment.setting_paths import SearchSpace, split_path
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.search.stages.core.config import StageConfig
from stillhouse.spaces.config.domains import Domain, parse_domain
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

UNDECLARED_MESSAGE = "this field declares no range; write one, such as {uniform: [0, 1]}"


def parse_search_space(
    settings: ExperimentFile, stage_configs: Mapping[str, StageConfig]
) -> tuple[SearchSpace, tuple[Problem, ...]]:
    """The searched paths with their domains, and the problems of the others.

    ``declared`` stands for the domain that the field declares.
    """
    space: dict[str, Domain] = {}
    problems: list[Problem] = []
    # ``declared`` last: the field may belong to a method that another path adds.
    for path, domain_data in sorted(
        settings.search.items(), key=lambda item: item[1] == "declared"
    ):
        try:
            space[path] = _parse_searched_domain(path, domain_data, stage_configs, space)
        except ConfigError as error:
            problems.extend(error.with_prefix("search").problems)
    return {path: space[path] for path in settings.search if path in space}, tuple(problems)


def _parse_searched_domain(
    path: str, domain_data: Any, stage_configs: Mapping[str, StageConfig], space: SearchSpace
) -> Domain:
    name, *inner_steps = split_path(path)
    if name != "data" and name not in stage_configs:
        raise ConfigError([Problem(path, unknown_message("stage", name, stage_configs))])
    if not inner_steps:
        message = f"names the whole stage {name!r}; name one of its settings, such as {name}.seed"
        raise ConfigError([Problem(path, message)])
    if domain_data != "declared":
        domain = parse_domain(domain_data, path, DOMAIN_PARSERS)
        if isinstance(domain, Composition):
            _require_objective_path(path, inner_steps, stage_configs.get(name))
        return domain
    declared_domain_at = (
        _declared_data_domain if name == "data" else stage_configs[name].declared_domain
    )
    declared_range = declared_domain_at(tuple(inner_steps))
    for outer_path, domain in space.items():
        if isinstance(domain, Composition) and path.startswith(f"{outer_path}."):
            declared_range = declared_range or domain.domain_at(path.removeprefix(f"{outer_path}."))
    if declared_range is None:
        raise ConfigError([Problem(path, UNDECLARED_MESSAGE)])
    return declared_range


def _require_objective_path(
    path: str, inner_steps: Sequence[str], stage_config: StageConfig | None
) -> None:
    """Check that a composition of methods is the domain of an objective.

    Raises:
        ConfigError: ``path`` leads to another field.
    """
    is_link = (
        isinstance(stage_config, ChainEntry) and len(inner_steps) == 3 and inner_steps[0] == "links"
    )
    is_objective_field = (
        len(inner_steps) == 1
        and stage_config is not None
        and "objective" in type(stage_config).model_fields
    )
    if inner_steps[-1] != "objective" or not (is_link or is_objective_field):
        message = "methods: needs the path of an objective, such as student.objective"
        raise ConfigError([Problem(path, message)])


def _declared_data_domain(path: tuple[str, ...]) -> Domain | None:
    match path:
        case ("augment", field):
            return Augment.search_space().get(field)
    return None
