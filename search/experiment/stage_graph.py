"""Stage graph: the entries of an experiment, all values decided, expanded to stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import embedding_space, facts
from stillhouse.search.stages.chain import merge_settings
from stillhouse.search.stages.core.config import STAGE_KINDS, ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

StageExpander = Callable[[str, StageConfig, Mapping[str, ExpandedStage], DataConfig], ExpandedStage]
"""Expands one entry: its name, its settings, its expanded dependencies, and its data."""


@dataclass(frozen=True)
class StageGraph:
    """The stages of every entry by name, and the final stage ``student``."""

    expanded_stages: Mapping[str, ExpandedStage]
    student: Stage

    @property
    def prerequisites(self) -> tuple[Stage, ...]:
        """All ancestors of the student, parents first."""
        return tuple(stage for stage in self.student.ancestors() if stage is not self.student)

    @property
    def keys_by_label(self) -> dict[str, str]:
        """Label -> key of every stage, the student last."""
        return {stage.label: stage.key for stage in self.student.ancestors()}


def parse_stages(stages: Mapping[str, Any]) -> dict[str, StageConfig]:
    """Parse the entries.

    Raises:
        ConfigError: all problems of all entries, with paths that begin with the name.
    """
    stage_configs: dict[str, StageConfig] = {}
    problems: list[Problem] = []
    for name, stage_data in stages.items():
        try:
            stage_configs[name] = parse_stage(stage_data, name)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return stage_configs


def parse_stage(stage_data: Mapping[str, Any], name: str) -> StageConfig:
    """Parse one entry; ``do:`` names its kind, a file of ``search/stages``."""
    kind_name = stage_data.get("do", "train")
    if kind_name not in STAGE_KINDS.names():
        raise ConfigError(
            [
                Problem(
                    f"{name}.do", unknown_message("kind of stage", kind_name, STAGE_KINDS.names())
                )
            ]
        )
    return STAGE_KINDS.load(kind_name).parse(stage_data, name)


def build_stage_graph(
    stage_configs: Mapping[str, StageConfig],
    data: DataConfig,
    final_name: str,
    expand_one: StageExpander | None = None,
) -> StageGraph:
    """Expand all entries.

    Args:
        expand_one: expands one entry; by default the entry is also checked.

    Raises:
        ConfigError: an unknown dependency, a cycle, or entries that cannot be expanded.
    """
    expanded_stages: dict[str, ExpandedStage] = {}
    problems_by_name: dict[str, tuple[Problem, ...]] = {}
    for name in topological_order(stage_configs):
        if not expanded_stages.keys() >= set(stage_configs[name].dependencies()):
            continue  # a dependency has problems already
        try:
            expanded_dependencies = {
                dependency: expanded_stages[dependency]
                for dependency in stage_configs[name].dependencies()
            }
            stage_data = data_config_for(stage_configs[name], data)
            expanded = (expand_one or _expand_checked)(
                name, stage_configs[name], expanded_dependencies, stage_data
            )
        except ConfigError as error:
            problems_by_name[name] = error.with_prefix(name).problems
        else:
            expanded_stages[name] = expanded
    if problems_by_name:
        raise ConfigError(p for name in stage_configs for p in problems_by_name.get(name, ()))
    in_file_order = {name: expanded_stages[name] for name in stage_configs}
    return StageGraph(in_file_order, expanded_stages[final_name].stage)


def _expand_checked(
    name: str,
    stage_config: StageConfig,
    expanded_dependencies: Mapping[str, ExpandedStage],
    data: DataConfig,
) -> ExpandedStage:
    expanded = stage_config.expand(name, expanded_dependencies, data)
    expanded.stage.operation.costs(expanded.stage.data)
    for stage in expanded.teaching_stages:
        _require_usable_labels(stage)
        _require_validation_for_best(stage)
        _require_same_word_vectors(stage)
    return expanded


def _require_usable_labels(stage: Stage) -> None:
    """Check that the labels fit the augmentation: noise has none, mixed images have soft ones.

    Raises:
        ConfigError: the objective needs labels on noise, or hard labels on mixed images.
    """
    learns = isinstance(stage.operation, TrainNetwork) and stage.operation.objective
    if learns and learns.needs_labels and stage.data.augment.noise:
        message = "needs labels, but data.augment.noise leaves none; use only methods with teachers"
        raise ConfigError([Problem("objective", message)])
    if learns and learns.methods_needing_hard_labels and stage.data.augment.is_mixing:
        name = learns.methods_needing_hard_labels[0]
        message = (
            f"needs hard labels, but data.augment.mixup or cutmix makes them soft; remove {name}"
        )
        raise ConfigError([Problem(f"objective.{name}", message)])


def _require_validation_for_best(stage: Stage) -> None:
    """Check that there is a validation split if the best epoch is kept.

    Raises:
        ConfigError: there is none.
    """
    training = (
        isinstance(stage.operation, TrainNetwork)
        and stage.operation.objective
        and stage.operation.training
    )
    if training and training.keep == "best" and not facts(stage.data).sizes["validation"]:
        message = "best needs a validation split; set last, or data.validation: 0.1"
        raise ConfigError([Problem("training.keep", message)])


def _require_same_word_vectors(stage: Stage) -> None:
    """Check that a stage and its parents have the same word vectors.

    Raises:
        ConfigError: a parent has other words or vectors.
    """
    for parent in stage.parents:
        if parent.data != stage.data and embedding_space(parent.data) != embedding_space(
            stage.data
        ):
            message = (
                f"has other words or word vectors than its parent {parent.label}; use the same "
                "source, validation and split_seed, or read vectors from one file"
            )
            raise ConfigError([Problem("data", message)])


def data_config_for(stage_config: StageConfig, data: DataConfig) -> DataConfig:
    """The data of the experiment with the changes of ``stage_config``.

    Raises:
        ConfigError: the changes do not fit, with paths that begin with ``data``.
    """
    stage_data = (
        DataConfig.parse(merge_settings(data.plain(), stage_config.data), "data")
        if stage_config.data
        else data
    )
    if stage_data.root is not None:  # workers have their own working directories
        absolute_root = str(Path(stage_data.root).expanduser().absolute())
        stage_data = stage_data.model_copy(update={"root": absolute_root})
    return stage_data


def topological_order(stage_configs: Mapping[str, StageConfig]) -> tuple[str, ...]:
    """Names of the entries, each after its dependencies.

    Raises:
        ConfigError: an unknown dependency, or a cycle.
    """
    dependencies = {name: config.dependencies() for name, config in stage_configs.items()}
    for name, names in dependencies.items():
        for unknown in names:
            if unknown not in stage_configs:
                raise ConfigError([Problem(name, unknown_message("stage", unknown, stage_configs))])
    try:
        return tuple(TopologicalSorter(dependencies).static_order())
    except CycleError as error:
        cycle = error.args[1][::-1]
        message = f"stages depend on each other in a cycle: {' -> '.join(cycle)}"
        raise ConfigError([Problem(cycle[0], message)]) from None
