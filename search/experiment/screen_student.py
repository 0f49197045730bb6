"""The student that screens a configuration, and checks of ``run.screen``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stillhouse.methods.core.objective.objective import Objective
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import ScreenSettings
from stillhouse.search.experiment.setting_paths import split_path
from stillhouse.search.experiment.variants import labels_only
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.distil_data import Distil
from stillhouse.search.stages.expansion.teachers import uses_teachers
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message


def screen_student(experiment: Experiment, values: Mapping[str, Any]) -> Stage:
    """The student of ``values``, trained on the distilled data of the screen.

    Network, optimiser and objective are those of ``values``, without methods that need hard labels
    or prerequisites. Teachers stay if no searched value changes them: they are built once for the
    search and teach on distilled images, too. Otherwise each (an assistant, say) would be trained
    before the screen could reject it, so the student learns from labels only.

    Raises:
        ConfigError: there is no such student, with paths into the file.
    """
    settings, final_name = experiment.run.screen, experiment.final_name
    assert settings is not None
    stages, data = experiment.with_values(values)
    stage_data = dict(stages[final_name])
    stage_data["data"] = {**(stage_data.get("data") or {}), "distilled": settings.stage}
    if settings.epochs is not None:
        stage_data["training"] = {**(stage_data.get("training") or {}), "epochs": settings.epochs}
    if stage_data.get("objective"):
        stage_data |= _soft_label_objective(stage_data, _teachers_are_fixed(experiment))
    screening_experiment = replace(experiment, stages={**stages, final_name: stage_data}, data=data)
    return replace(screening_experiment.stage_graph().student, label=f"{final_name} (screen)")


def _soft_label_objective(stage_data: Mapping[str, Any], keeps_teachers: bool) -> dict[str, Any]:
    """Objective and teachers of an entry that trains on soft labels."""
    objective = Objective.parse(stage_data["objective"], "objective")
    hard_label_methods, methods_with_requirements = (
        objective.methods_needing_hard_labels,
        {name for name, _ in objective.requirements()},
    )
    remaining_terms = {
        method: term
        for method, term in stage_data["objective"].items()
        if method not in {*hard_label_methods, *methods_with_requirements}
    }
    has_weight = any(objective.terms[name].weight > 0 for name in remaining_terms)
    if not has_weight or (uses_teachers(objective) and not keeps_teachers):
        return labels_only(stage_data)
    needs_teachers = uses_teachers(Objective.parse(remaining_terms))
    return {
        "objective": remaining_terms,
        "teachers": stage_data.get("teachers", []) if needs_teachers else [],
    }


def _teachers_are_fixed(experiment: Experiment) -> bool:
    """Whether no searched value changes the teachers."""
    pending = list(experiment.stage_configs[experiment.final_name].plain().get("teachers") or ())
    visited: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in visited:
            visited.add(name)
            pending += experiment.stage_configs[name].dependencies()
    return f"{experiment.final_name}.teachers" not in experiment.search and not any(
        split_path(path)[0] in visited for path in experiment.search
    )


def check_screen(experiment: Experiment) -> Iterator[Problem]:
    """Problems of ``run.screen``."""
    screen_settings = experiment.run.screen
    if screen_settings is None:
        return
    yield from _check_use(experiment)
    yield from _check_stage(experiment, screen_settings)


def check_screen_student(experiment: Experiment) -> Iterator[Problem]:
    """Why the values of the file cannot be screened, if ``run.screen`` itself is valid."""
    if experiment.run.screen is None or any(check_screen(experiment)):
        return
    try:
        screen_student(experiment, {})
    except ConfigError as error:
        yield from (Problem("run.screen", f"its student: {p}") for p in error.problems)


def _check_use(experiment: Experiment) -> Iterator[Problem]:
    metric = experiment.goals[0].figure
    if not experiment.search:
        yield Problem("run.screen", "needs a search; remove it")
    if len(experiment.goals) > 1:
        yield Problem("run.screen", "needs a single goal; with several, remove it")
    elif "val_" not in metric:
        message = f"ranks students by a validation metric, not by {metric}; remove it"
        yield Problem("run.screen", message)
    stage_config = experiment.stage_configs.get(experiment.final_name)
    if stage_config is not None and not isinstance(stage_config, Train):
        message = (
            f"needs a student with do: train, but {experiment.final_name!r} is a {stage_config.do}"
        )
        yield Problem("run.screen", message)
    elif stage_config is not None and stage_config.images:
        message = (
            f"saves nothing: {experiment.final_name!r} trains only on {stage_config.images}; "
            "remove it"
        )
        yield Problem("run.screen", message)


def _check_stage(experiment: Experiment, screen_settings: ScreenSettings) -> Iterator[Problem]:
    location, stage_config = "run.screen.stage", experiment.stage_configs.get(screen_settings.stage)
    distilled_data_stages = [
        name for name, config in experiment.stage_configs.items() if isinstance(config, Distil)
    ]
    if stage_config is None:
        yield Problem(
            location,
            unknown_message(
                "stage of distilled data", screen_settings.stage, distilled_data_stages
            ),
        )
    elif not isinstance(stage_config, Distil):
        yield Problem(
            location,
            f"{screen_settings.stage} is a {stage_config.do}; name one with do: distil_data",
        )
    for path in experiment.search:
        if split_path(path)[0] in ("data", screen_settings.stage):
            message = (
                f"is built once for the whole search, but {path} is searched; search "
                f"{experiment.final_name}.data instead of data, and no setting of "
                f"{screen_settings.stage}"
            )
            yield Problem(location, message)
