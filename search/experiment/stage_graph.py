"""Recipe: the entries of an experiment with every value decided, laid out as a graph of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts, space
from stillhouse.search.stages.chain import merged
from stillhouse.search.stages.core.config import KINDS, Entry, Kind
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown

LayOut = Callable[[str, Kind, Mapping[str, Entry], DataConfig], Entry]
"""Lays out one entry: its name, what it says, the entries that it needs, and its data."""


@dataclass(frozen=True)
class Recipe:
    """A small named graph of stages that ends in ``student``, runnable as it stands."""

    entries: Mapping[str, Entry]
    student: Stage

    @property
    def prerequisites(self) -> tuple[Stage, ...]:
        """All the student rests on, parents first."""
        return tuple(stage for stage in self.student.lineage() if stage is not self.student)

    @property
    def keys(self) -> dict[str, str]:
        """Label -> key of every stage, the student last."""
        return {stage.label: stage.key for stage in self.student.lineage()}


def parse_entries(stages: Mapping[str, Any]) -> dict[str, Kind]:
    """The entries as settings.

    Raises:
        ConfigError: every problem of every entry, with paths from the stages' names on.
    """
    entries: dict[str, Kind] = {}
    problems: list[Problem] = []
    for name, data in stages.items():
        try:
            entries[name] = parse_entry(data, name)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return entries


def parse_entry(data: Mapping[str, Any], name: str) -> Kind:
    """One entry: ``do:`` names its kind, a file of ``search/stages``."""
    do = data.get("do", "train")
    if do not in KINDS.names():
        raise ConfigError([Problem(f"{name}.do", unknown("kind of stage", do, KINDS.names()))])
    return KINDS.load(do).parse(data, name)


def lay_out(
    entries: Mapping[str, Kind], data: DataConfig, final: str, one: LayOut | None = None
) -> Recipe:
    """The stages that ``entries`` stand for.

    ``one`` lays out one entry; without it, an entry is laid out and checked.

    Raises:
        ConfigError: a reference to nothing, a cycle, or entries that cannot be laid out.
    """
    done: dict[str, Entry] = {}
    problems: list[Problem] = []
    for name in in_order(entries):
        if not done.keys() >= set(entries[name].needs()):
            continue  # what it rests on is wrong already
        try:
            needed = {need: done[need] for need in entries[name].needs()}
            own = data_for(entries[name], data)
            entry = (one or _lay_out_checked)(name, entries[name], needed, own)
        except ConfigError as error:
            problems.extend(error.under(name).problems)
        else:
            done[name] = entry
    if problems:
        raise ConfigError(problems)
    return Recipe(done, done[final].stage)


def _lay_out_checked(
    name: str, entry: Kind, needed: Mapping[str, Entry], data: DataConfig
) -> Entry:
    laid = entry.lay_out(name, needed, data)
    laid.stage.work.costs(laid.stage.data)
    for stage in laid.members:
        _check_labels(stage)
        _check_keep(stage)
        _check_space(stage)
    return laid


def _check_labels(stage: Stage) -> None:
    """Noise in an image's place has nothing to do with its label, and mixed images have soft ones.

    Raises:
        ConfigError: labels are learnt from all the same, or by a method that takes no soft ones.
    """
    taught = isinstance(stage.work, TrainNetwork) and stage.work.objective
    if taught and taught.needs_labels and stage.data.augment.noise:
        message = "learns from labels, and data.augment.noise leaves none; keep to the teachers"
        raise ConfigError([Problem("objective", message)])
    if taught and taught.needs_hard_labels and stage.data.augment.mixes:
        name = taught.needs_hard_labels[0]
        message = (
            f"needs hard labels, and data.augment.mixup or cutmix makes them soft; leave {name} out"
        )
        raise ConfigError([Problem(f"objective.{name}", message)])


def _check_keep(stage: Stage) -> None:
    """The best epoch is told by the validation split.

    Raises:
        ConfigError: it is to be kept, and nothing is held out.
    """
    training = isinstance(stage.work, TrainNetwork) and stage.work.objective and stage.work.training
    if training and training.keep == "best" and not facts(stage.data).sizes["validation"]:
        message = "best needs a validation split, and data.validation is 0; set last, or 0.1 there"
        raise ConfigError([Problem("training.keep", message)])


def _check_space(stage: Stage) -> None:
    """What networks see of a text depends on the words of its data set and on their vectors.

    Raises:
        ConfigError: a stage rests on one that lives among other word vectors.
    """
    for parent in stage.parents:
        if parent.data != stage.data and space(parent.data) != space(stage.data):
            message = (
                f"has other words or word vectors than {parent.label}, on which it rests; keep "
                "source, validation and split_seed, or read vectors from one file"
            )
            raise ConfigError([Problem("data", message)])


def data_for(entry: Kind, data: DataConfig) -> DataConfig:
    """The experiment's data with the changes that ``entry`` wants.

    Raises:
        ConfigError: they do not fit, with paths from ``data`` on.
    """
    own = DataConfig.parse(merged(data.plain(), entry.data), "data") if entry.data else data
    if own.root is not None:  # workers have working directories of their own
        absolute = str(Path(own.root).expanduser().absolute())
        own = own.model_copy(update={"root": absolute})
    return own


def in_order(entries: Mapping[str, Kind]) -> Iterator[str]:
    """The entries' names, each after those it needs.

    Raises:
        ConfigError: a needed entry does not exist, or entries need each other in a circle.
    """
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise ConfigError([Problem(name, f"stages need each other in a circle: {circle}")])
        if name in done:
            return
        for need in entries[name].needs():
            if need not in entries:
                raise ConfigError([Problem(name, unknown("stage", need, entries))])
            yield from visit(need, (*path, name))
        done.add(name)
        yield name

    for name in entries:
        yield from visit(name, ())
