"""The student a configuration is screened by, and what must hold for there to be one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stillhouse.methods.core.objective.objective import Objective
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import Screening
from stillhouse.search.experiment.setting_paths import parts
from stillhouse.search.experiment.variants import labels_alone
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.distil_data import Distil
from stillhouse.search.stages.expansion.teachers import hears
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown


def screen_student(experiment: Experiment, values: Mapping[str, Any]) -> Stage:
    """The student of ``values``, trained on the screen's distilled data instead.

    Its network, optimiser and objective are as drawn. Laid aside are methods that take no soft
    labels, and those for which something is trained first. Teachers are kept where no searched
    value changes them: then they are made once for the whole search, answer on distilled images
    as on any, and recipes of distillation can be told apart. Where something searched does
    (assistants), each would be trained for real before the screen could say that it was not worth
    it; there the student learns from labels alone.

    Raises:
        ConfigError: it cannot be laid out, with paths into the file.
    """
    settings, final = experiment.run.screen, experiment.final
    assert settings is not None
    stages, data = experiment.with_values(values)
    entry = dict(stages[final])
    entry["data"] = {**(entry.get("data") or {}), "distilled": settings.stage}
    if settings.epochs is not None:
        entry["training"] = {**(entry.get("training") or {}), "epochs": settings.epochs}
    if entry.get("objective"):
        entry |= _taught(entry, _settled_teachers(experiment))
    other = replace(experiment, stages={**stages, final: entry}, data=data)
    return replace(other.recipe().student, label=f"{final} (screen)")


def _taught(entry: Mapping[str, Any], teachers_stay: bool) -> dict[str, Any]:
    """Objective and teachers of an entry that learns from soft labels."""
    objective = Objective.parse(entry["objective"], "objective")
    hard, brings = objective.needs_hard_labels, {name for name, _ in objective.brings()}
    kept = {n: told for n, told in entry["objective"].items() if n not in {*hard, *brings}}
    weighty = any(objective.terms[name].weight > 0 for name in kept)
    if not weighty or (hears(objective) and not teachers_stay):
        return labels_alone(entry)
    heard = hears(Objective.parse(kept))
    return {"objective": kept, "teachers": entry.get("teachers", []) if heard else []}


def _settled_teachers(experiment: Experiment) -> bool:
    """Whether no searched value decides who teaches, or what they are."""
    ahead = list(experiment.entries[experiment.final].plain().get("teachers") or ())
    needed: set[str] = set()
    while ahead:
        name = ahead.pop()
        if name not in needed:
            needed.add(name)
            ahead += experiment.entries[name].needs()
    return f"{experiment.final}.teachers" not in experiment.search and not any(
        parts(path)[0] in needed for path in experiment.search
    )


def check_screen(experiment: Experiment) -> Iterator[Problem]:
    """What of a screen cannot be."""
    screen = experiment.run.screen
    if screen is None:
        return
    yield from _check_use(experiment)
    yield from _check_stage(experiment, screen)


def check_screen_student(experiment: Experiment) -> Iterator[Problem]:
    """Why the student of the file's own values cannot be screened, where the rest is sound."""
    if experiment.run.screen is None or any(check_screen(experiment)):
        return
    try:
        screen_student(experiment, {})
    except ConfigError as error:
        yield from (Problem("run.screen", f"its student: {p}") for p in error.problems)


def _check_use(experiment: Experiment) -> Iterator[Problem]:
    figure = experiment.goals[0].figure
    if not experiment.search:
        yield Problem("run.screen", "has nothing to choose from without search; leave it out")
    if len(experiment.goals) > 1:
        yield Problem("run.screen", "needs a single goal; with several, leave it out")
    elif "val_" not in figure:
        message = f"ranks by what a student reaches in validation, not by {figure}; leave it out"
        yield Problem("run.screen", message)
    entry = experiment.entries.get(experiment.final)
    if entry is not None and not isinstance(entry, Train):
        message = f"trains students on other data, and {experiment.final!r} is a {entry.do}"
        yield Problem("run.screen", message)
    elif entry is not None and entry.images:
        message = f"has nothing to spare: {experiment.final!r} learns on {entry.images} alone"
        yield Problem("run.screen", message)


def _check_stage(experiment: Experiment, screen: Screening) -> Iterator[Problem]:
    place, entry = "run.screen.stage", experiment.entries.get(screen.stage)
    known = [name for name, kind in experiment.entries.items() if isinstance(kind, Distil)]
    if entry is None:
        yield Problem(place, unknown("stage of distilled data", screen.stage, known))
    elif not isinstance(entry, Distil):
        yield Problem(place, f"{screen.stage} is a {entry.do}; name one with do: distil_data")
    for path in experiment.search:
        if parts(path)[0] in ("data", screen.stage):
            message = (
                f"is made once for the whole search, and {path} is searched; search "
                f"{experiment.final}.data instead of data, and nothing of {screen.stage}"
            )
            yield Problem(place, message)
