"""Checks of the stages of an experiment and of their graph."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.search.experiment.checks.figures import check_metrics
from stillhouse.search.experiment.checks.paths import searched_lists
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.workers import check_workers
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.search.stages.expansion.teachers import UNUSED_TEACHERS_MESSAGE, uses_teachers
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_names(experiment: Experiment) -> Iterator[Problem]:
    for name in experiment.stages:
        if name == "data" or not name.replace("_", "").replace("-", "").isalnum():
            yield Problem(
                f"stages.{name}", "a stage's name has letters, digits, - and _, and is not 'data'"
            )


def check_link_names(experiment: Experiment) -> Iterator[Problem]:
    """Check that ``links`` names networks of the chain, as written or as searched."""
    for name, stage_config in experiment.stage_configs.items():
        if isinstance(stage_config, ChainEntry):
            network_labels = [spec.label for spec in stage_config.networks]
            for value in searched_lists(f"{name}.networks", experiment):
                network_labels += [str(network) for network in value]
            try:
                stage_config.check_links(tuple(dict.fromkeys(network_labels)))
            except ConfigError as error:
                yield from error.with_prefix(f"stages.{name}").problems


def check_stage_graph(experiment: Experiment) -> Iterator[Problem]:
    try:
        graph = experiment.stage_graph()
    except ConfigError as error:
        yield from error.with_prefix("stages").problems
        return
    for name, stage_config in experiment.stage_configs.items():
        is_fixed = f"{name}.objective" not in experiment.search
        if (
            is_fixed
            and isinstance(stage_config, Train)
            and stage_config.teachers
            and not uses_teachers(stage_config.objective)
        ):
            yield Problem(f"stages.{name}.teachers", UNUSED_TEACHERS_MESSAGE)
    for name, expanded in graph.expanded_stages.items():
        try:
            expanded.stage.operation.identity()
        except ConfigError as error:
            yield from error.with_prefix(f"stages.{name}").problems
            return  # the other checks need keys
    yield from check_metrics(experiment, graph)
    yield from check_workers(experiment, graph)
    if experiment.run.baselines and graph.student.data.augment.noise:
        message = (
            "baselines train a labels-only student, which data.augment.noise cannot do; set false"
        )
        yield Problem("run.baselines", message)
    if experiment.search:
        expanded_dependencies = _needed_stages(experiment)
        for name in experiment.stages:
            if name not in expanded_dependencies and name != "data":
                message = f"{experiment.final_name!r} does not depend on it; remove it"
                yield Problem(f"stages.{name}", message)


def _needed_stages(experiment: Experiment) -> set[str]:
    """The final stage and its dependencies, as written or as searched."""
    needed: set[str] = set()
    pending = [experiment.final_name]
    if experiment.run.screen:
        pending.append(experiment.run.screen.stage)
    while pending:
        name = pending.pop()
        if name in needed or name not in experiment.stage_configs:
            continue
        needed.add(name)
        pending += experiment.stage_configs[name].dependencies()
        pending += [
            teacher_name
            for value in searched_lists(f"{name}.teachers", experiment)
            for teacher_name in value
        ]
        teacher_domain = experiment.search.get(f"{name}.teacher")
        pending += teacher_domain.values if isinstance(teacher_domain, Choice) else ()
    return needed
