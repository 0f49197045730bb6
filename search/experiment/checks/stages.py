"""What must hold of the stages of an experiment and of how they hang together."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.search.experiment.checks.figures import check_figures
from stillhouse.search.experiment.checks.paths import searched_lists
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.workers import check_workers
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.search.stages.expansion.teachers import UNHEARD, hears
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_names(experiment: Experiment) -> Iterator[Problem]:
    for name in experiment.stages:
        if name == "data" or not name.replace("_", "").replace("-", "").isalnum():
            yield Problem(
                f"stages.{name}", "a stage's name has letters, digits, - and _, and is not 'data'"
            )


def check_links(experiment: Experiment) -> Iterator[Problem]:
    """What ``links`` names can be in the chain, as written or as searched."""
    for name, entry in experiment.entries.items():
        if isinstance(entry, ChainEntry):
            possible = [spec.label for spec in entry.networks]
            for value in searched_lists(f"{name}.networks", experiment):
                possible += [str(network) for network in value]
            try:
                entry.check_links(tuple(dict.fromkeys(possible)))
            except ConfigError as error:
                yield from error.under(f"stages.{name}").problems


def check_recipe(experiment: Experiment) -> Iterator[Problem]:
    try:
        recipe = experiment.recipe()
    except ConfigError as error:
        yield from error.under("stages").problems
        return
    for name, kind in experiment.entries.items():
        settled = f"{name}.objective" not in experiment.search
        if settled and isinstance(kind, Train) and kind.teachers and not hears(kind.objective):
            yield Problem(f"stages.{name}.teachers", UNHEARD)
    for name, entry in recipe.entries.items():
        try:
            entry.stage.work.identity()
        except ConfigError as error:
            yield from error.under(f"stages.{name}").problems
            return  # without what decides it there are no keys to go by
    yield from check_figures(experiment, recipe)
    yield from check_workers(experiment, recipe)
    if experiment.run.baselines and recipe.student.data.augment.noise:
        message = "hold the student against one taught by labels, and noise has none; set false"
        yield Problem("run.baselines", message)
    if experiment.search:
        needed = _needed(experiment)
        for name in experiment.stages:
            if name not in needed and name != "data":
                message = f"nothing that leads to {experiment.final!r} needs it"
                yield Problem(f"stages.{name}", message)


def _needed(experiment: Experiment) -> set[str]:
    """The stages that lead to the final one, as written or as searched."""
    found: set[str] = set()
    ahead = [experiment.final]
    if experiment.run.screen:
        ahead.append(experiment.run.screen.stage)
    while ahead:
        name = ahead.pop()
        if name in found or name not in experiment.entries:
            continue
        found.add(name)
        ahead += experiment.entries[name].needs()
        ahead += [n for value in searched_lists(f"{name}.teachers", experiment) for n in value]
        teacher = experiment.search.get(f"{name}.teacher")
        ahead += teacher.values if isinstance(teacher, Choice) else ()
    return found
