"""Experiment: stages, the searched values, the goal and how to run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.core.addresses import for_storage
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.schema import FactorialSettings, GoalSettings, RunSettings
from stillhouse.search.experiment.setting_paths import (
    SearchSpace,
    by_depth,
    enumerate_suggestions,
    expand_wildcard,
    get_value,
    set_value,
    split_path,
    with_wildcard,
    without_wildcard,
)
from stillhouse.search.experiment.stage_graph import (
    StageGraph,
    build_stage_graph,
    parse_stage,
    parse_stages,
)
from stillhouse.search.experiment.yaml_schema import dump
from stillhouse.search.stages.core.config import StageConfig
from stillhouse.spaces.config.domains import ConditionalDomain, Domain, Suggester
from stillhouse.spaces.config.limits import Limit


@dataclass(frozen=True)
class Experiment:
    """A checked experiment file. ``stages`` contains the entries as written."""

    name: str
    data: DataConfig
    stages: Mapping[str, Any]
    search: SearchSpace
    goal: GoalSettings | None
    run: RunSettings
    library: str
    tracking: str | None
    study: str | None = None
    factorial: FactorialSettings | None = None

    @property
    def final_name(self) -> str:
        """The entry that trials build: the one that the goal names, or the last one."""
        if self.goal:
            return split_path((self.goal.maximize + self.goal.minimize)[0])[0]
        return list(self.stages)[-1]

    @property
    def trials(self) -> int:
        """Number of trials; 1 if nothing is searched."""
        return self.run.trials if self.search else 1

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The metrics to optimise; by default validation accuracy is maximised."""
        if not self.goal:
            return (Goal("val_accuracy", True),)
        maximized = [Goal(_metric_name(path), True) for path in self.goal.maximize]
        return (*maximized, *(Goal(_metric_name(path), False) for path in self.goal.minimize))

    @property
    def limits(self) -> dict[str, Limit]:
        """Metric of the student -> its allowed range."""
        paths_to_limits = self.goal.subject_to if self.goal else {}
        return {_metric_name(path): limit for path, limit in paths_to_limits.items()}

    @cached_property
    def stage_configs(self) -> dict[str, StageConfig]:
        """The parsed entries with the values of the file."""
        return parse_stages(self.stages)

    def stage_graph(
        self, values: Mapping[str, Any] | None = None, seed_offset: int = 0
    ) -> StageGraph:
        """The stage graph with ``values`` applied.

        Args:
            seed_offset: added to the seed of the student and of every reseeded entry. A repetition
                retrains assistants and student, and shares the teacher and its neighbourhoods.

        Raises:
            ConfigError: a value is not allowed.
        """
        stages, data = self.with_values(values or {})
        stage_configs = parse_stages(stages)
        if seed_offset:
            stage_configs = {
                name: self._reseeded(name, stage_config, seed_offset)
                for name, stage_config in stage_configs.items()
            }
        with_latency = {
            name: stage_config.with_latency_settings(self.run.latency)
            for name, stage_config in stage_configs.items()
        }
        return build_stage_graph(with_latency, data, self.final_name)

    def _reseeded(self, name: str, stage_config: StageConfig, seed_offset: int) -> StageConfig:
        is_reseeded = stage_config.is_reseeded or name == self.final_name
        return (
            stage_config.model_copy(update={"seed": stage_config.seed + seed_offset})
            if is_reseeded
            else stage_config
        )

    def suggest(self, suggester: Suggester) -> dict[str, Any]:
        """Ask ``suggester`` for every searched value that applies, given the earlier ones.

        Raises:
            ConfigError: the values contradict each other.
        """
        values: dict[str, Any] = {}
        stage_configs = dict(self.stage_configs)
        for path, domain in by_depth(self.search):
            if split_path(path)[0] == "data":
                values[path] = domain.suggest(path, suggester)
                continue
            name = split_path(path)[0]
            for concrete_path in expand_wildcard(path, stage_configs):
                values[concrete_path] = domain.suggest(concrete_path, suggester)
                for inner, inner_domain in self._conditional_domains(
                    concrete_path, domain, values[concrete_path]
                ).items():
                    values[inner] = inner_domain.suggest(inner, suggester)
                stages, _ = self.with_values(values)
                stage_configs[name] = parse_stage(stages[name], name)
        return values

    def _conditional_domains(self, path: str, domain: Domain, value: Any) -> dict[str, Domain]:
        """Domains that a suggested value opens, without those that ``search:`` contains."""
        if not isinstance(domain, ConditionalDomain):
            return {}
        domains = {
            f"{path}.{inner}": inner_domain
            for inner, inner_domain in domain.conditional_domains(value).items()
        }
        return {p: d for p, d in domains.items() if not {p, with_wildcard(p)} & self.search.keys()}

    def configurations(self, points: int) -> Iterator[dict[str, Any]]:
        """All valid configurations, with ``points`` values per range."""
        suggested: list[dict[str, Any]] = []
        for _ in enumerate_suggestions(
            lambda suggester: suggested.append(self.suggest(suggester)), points
        ):
            yield from suggested
            suggested.clear()

    def plain(self) -> dict[str, Any]:
        """The experiment as plain data of a file, without passwords in addresses."""
        file_data: dict[str, Any] = {
            "name": self.name,
            "data": self.data.model_dump(mode="json", exclude_defaults=True),
            "stages": copy.deepcopy(dict(self.stages)),
        }
        if self.search:
            file_data["search"] = {path: domain.plain() for path, domain in self.search.items()}
        if self.factorial:
            file_data["factorial"] = self.factorial.model_dump(mode="json", exclude_defaults=True)
        if self.goal:
            file_data["goal"] = self.goal.model_dump(mode="json", exclude_defaults=True)
        file_data["run"] = self.run.model_dump(mode="json", exclude_defaults=True)
        file_data["library"] = self.library
        if self.tracking:
            file_data["tracking"] = for_storage(self.tracking)
        if self.study:
            file_data["study"] = for_storage(self.study)
        return file_data

    def fixed_configuration(
        self, values: Mapping[str, Any], name: str, first_seed: int | None = None
    ) -> dict[str, Any]:
        """Plain data of a file with ``values`` applied and nothing searched.

        Args:
            first_seed: first seed of the repetitions; a launch of the file repeats these seeds.
        """
        omitted_fields = ("search", "factorial")
        file_data = {key: value for key, value in self.plain().items() if key not in omitted_fields}
        stages, data = self.with_values(values)
        file_data["name"], file_data["stages"] = name, stages
        file_data["run"].pop("trials", None)
        file_data["run"].pop("screen", None)
        file_data["run"].get("repeats", {}).pop("of_each", None)
        if first_seed is not None:
            file_data["run"].setdefault("repeats", {})["first_seed"] = first_seed
        file_data["data"] = data.model_dump(mode="json", exclude_defaults=True)
        return file_data

    def with_values(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], DataConfig]:
        """The entries as written and the data, with ``values`` applied."""
        stages_data: dict[str, Any] = copy.deepcopy(dict(self.stages))
        stages_data["data"] = self.data.plain()
        for path, value in sorted(values.items(), key=lambda item: len(split_path(item[0]))):
            conditional = self._conditional_domain_at(path)
            set_value(
                stages_data,
                path,
                _apply_conditional(conditional, stages_data, path, value) if conditional else value,
            )
        return stages_data, DataConfig.parse(stages_data.pop("data"), "data")

    def _conditional_domain_at(self, path: str) -> ConditionalDomain | None:
        """The domain of ``path`` if its values change the setting instead of replacing it."""
        for searched_path, domain in self.search.items():
            if searched_path in (path, with_wildcard(path)) and isinstance(
                domain, ConditionalDomain
            ):
                return domain
        for (
            searched_path,
            domain,
        ) in self.search.items():  # the wildcard path also covers the chain itself
            if without_wildcard(searched_path) == path and isinstance(domain, ConditionalDomain):
                return domain
        return None


def _apply_conditional(
    conditional: ConditionalDomain, stages_data: Mapping[str, Any], path: str, value: Any
) -> Any:
    """The setting at ``path`` with ``value``; a link sets removed methods of its chain to null."""
    applied = conditional.with_value(get_value(stages_data, path), value)
    name, *steps = split_path(path)
    if steps[0] != "links":
        return applied
    chain_value = get_value(stages_data, f"{name}.{steps[-1]}")
    omitted = chain_value.keys() - conditional.with_value(chain_value, value).keys()
    return {**applied, **dict.fromkeys(sorted(omitted))}


def _metric_name(path: str) -> str:
    """``val_accuracy`` of ``student.val_accuracy``."""
    return path.partition(".")[2]


def to_yaml(file_data: Mapping[str, Any]) -> str:
    """The text of an experiment file."""
    return dump(file_data)
