"""What the best student is held against: baselines over the same seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.artifacts.store import Library
from stillhouse.search.evaluation.finalists import Contender, contender
from stillhouse.search.evaluation.width_scaling import uniform
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import STATIC
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.experiment.variants import labels_alone
from stillhouse.search.results.outcome import Repeated
from stillhouse.search.stages.assemble import AssembleNetwork
from stillhouse.search.stages.chain import Chain
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.limits import Limit


def baselines(experiment: Experiment, best: Contender, library: Library) -> list[Contender]:
    """What a configuration is held against, over the same seeds.

    ``plain``: the same student and training, labels alone. ``direct``: the same student and
    objective, taught by the teacher at the root alone (the largest, where there are several)
    instead of by assistants.

    A student that goes on from an assembly has more, all for as many images as it and its
    neighbourhoods have seen. ``scratch`` is its architecture from random weights, labels alone;
    ``end to end`` is the same with its own objective and teachers; ``uniform`` is the assembly's
    teacher narrowed uniformly under the assembly's budgets. These three take
    ``run.repeats.from_random``: a fine-tuning's learning rate is too small for random weights.
    ``assembled`` is what the student goes on from, and has no seeds.

    What would be one student under two names is there once. One may be the best itself, like
    ``direct`` of a student that the root teaches: :func:`held_apart` tells. There are none for a
    student that has no teacher and goes on from no assembly.
    """
    stages, data = experiment.with_values(best.values)
    settled = replace(experiment, stages=stages, data=data, search={})
    recipe = settled.recipe()
    if not isinstance(recipe.student.work, TrainNetwork) or not isinstance(
        settled.entries[settled.final], Train
    ):
        return []
    student = _Student(settled, recipe.student, best)
    assembly = assembly_of(recipe.student)
    taught = list(student.otherwise(student.taught_otherwise()))
    if assembly is None:
        return list(_distinct(taught))
    made = student.otherwise(student.made_otherwise(assembly, library))
    return list(_distinct([student.as_assembled(recipe, assembly), *taught, *made]))


def held_apart(
    best: Contender, against: Sequence[Contender]
) -> tuple[Contender, tuple[Contender, ...]]:
    """The best with the roles of the baselines that are it itself, and the other baselines."""
    own = {recipe.student.key for recipe in best.recipes.values()}
    others = tuple(each for each in against if not own & each.keys)
    also = tuple(each.role for each in against if own & each.keys)
    return replace(best, also=also), others


def with_baselines(
    experiment: Experiment,
    settled: Sequence[Contender],
    best: Collection[Repeated],
    library: Library,
) -> list[Contender]:
    """``settled``, the ``best`` of it noted as :func:`held_apart` does, and their baselines."""
    found: list[Contender] = []
    against: list[Contender] = []
    chosen = {(repeated.role, repeated.group) for repeated in best}
    for each in settled:
        if (each.role, each.group) in chosen:
            each, others = held_apart(each, baselines(experiment, each, library))
            against += others
        found.append(each)
    return found + against


@dataclass(frozen=True)
class _Student:
    """The student that others are held against: ``experiment`` is settled, ``stage`` its own."""

    experiment: Experiment
    stage: Stage
    best: Contender

    @property
    def entry(self) -> dict[str, Any]:
        """As it is written."""
        return dict(self.experiment.stages[self.experiment.final])

    @property
    def teachers(self) -> tuple[Stage, ...]:
        work = self.stage.work
        assert isinstance(work, TrainNetwork)
        return self.stage.parents[work.leading :]

    def otherwise(self, entries: Mapping[str, dict[str, Any]]) -> Iterator[Contender]:
        """A contender for each role whose student is written otherwise."""
        for role, entry in entries.items():
            stages = {**self.experiment.stages, self.experiment.final: entry}
            other = replace(self.experiment, stages=stages)
            same = role != "uniform"
            figures = self.best.measured if same else {}
            yield contender(role, other, {}, self.best.recipes, figures, self.best.group)

    def as_assembled(self, recipe: Recipe, assembly: Stage) -> Contender:
        """The assembly itself: made once, so there is no seed to repeat it over."""
        made = Recipe(recipe.entries, assembly)
        return Contender("assembled", {}, {0: made}, self.best.measured, self.best.group)

    def taught_otherwise(self) -> dict[str, dict[str, Any]]:
        """The same start and training, other teachers."""
        lineages = [stage for teacher in self.teachers for stage in teacher.lineage()]
        if not (lineages and self.entry.get("objective")):
            return {}
        plain = {"plain": {**self.entry, **self._labels}}
        root = self._root(lineages)
        return {**plain, "direct": {**self.entry, "teachers": [root]}} if root else plain

    def _root(self, lineages: Sequence[Stage]) -> str | None:
        """The entry of the largest teacher that nobody taught; of equals the first."""
        # What a method brought is no entry: its method brings it again.
        sizes = {
            name: stage.work.costs(stage.data).get("parameters", 0.0)
            for stage in lineages
            if not stage.parents and (name := self._entry(stage.label))
        }
        return max(sizes, key=lambda name: sizes[name], default=None)

    def _entry(self, label: str) -> str:
        """The entry that a stage without parents stands for; of a ready link, its chain's head."""
        name = label.partition("/")[0]
        entry = self.experiment.entries.get(name)
        if isinstance(entry, Chain):
            return entry.teacher
        return name if name == label and entry else ""

    def made_otherwise(self, assembly: Stage, library: Library) -> dict[str, dict[str, Any]]:
        """The same objective for the same images, from random weights."""
        otherwise = self.experiment.run.repeats.from_random
        own = {**(self.entry.get("training") or {}), **otherwise}
        training = {**own, "epochs": same_images(self.stage)}
        fresh = {**self.entry, "start": assembly.label, "anew": True, "training": training}
        found = {"scratch": {**fresh, **self._labels}, "end to end": fresh}
        record = library.record(assembly.key)
        if record is not None and (spec := _narrowed(assembly, record.figures["parameters"])):
            rest = {k: v for k, v in fresh.items() if k not in ("start", "anew")}
            found["uniform"] = {**rest, "network": spec}
        return found

    @property
    def _labels(self) -> dict[str, Any]:
        """What learning from labels alone says; the student's own where it has no teacher."""
        return labels_alone(self.entry) if self.teachers else {}


def assembly_of(student: Stage) -> Stage | None:
    """The assembly that a student goes on from, perhaps by way of other students."""
    stage = student
    while isinstance(stage.work, TrainNetwork) and stage.work.network is None:
        if stage.work.anew:
            return None
        stage = stage.parents[0]
    return stage if isinstance(stage.work, AssembleNetwork) else None


def same_images(student: Stage) -> int:
    """Epochs of its data in which a student sees as many images as it and all it goes on from.

    The neighbourhoods of an assembly are distilled side by side and count as one of them. Not
    counted is what is looked at without learning: principal channels, batch-norm statistics.
    """
    images, stage = 0, student
    while isinstance(stage.work, TrainNetwork):
        images += stage.work.epochs * _images(stage.data)
        if stage.work.network is not None or stage.work.anew:
            break
        stage = stage.parents[0]
    parts = [part for part in stage.parents if part.work.kind == "neighbourhood"]
    images += max((part.work.epochs * _images(part.data) for part in parts), default=0)
    return -(-images // _images(student.data))


def _images(data: DataConfig) -> int:
    return facts(data).sizes["train"]


def _narrowed(assembly: Stage, parameters: float) -> dict[str, Any] | None:
    """The teacher's family at the assembly's budgets, or at its size where they do not decide."""
    work, teacher = assembly.work, assembly.parents[0].work
    assert isinstance(work, AssembleNetwork)
    assert isinstance(teacher, TrainNetwork)
    if teacher.network is None:
        return None
    limits = {name: limit for name, limit in work.budgets.items() if name in STATIC}
    unknown = len(limits) < len(work.budgets)
    if unknown or all(limit.max is None for limit in limits.values()):
        limits["parameters"] = Limit(max=parameters)
    about = facts(assembly.data)
    found = uniform(teacher.network, about.shape, about.classes, limits)
    return found.plain() if found else None


def _distinct(found: Iterable[Contender]) -> Iterator[Contender]:
    """One contender for each student."""
    seen: set[str] = set()
    for each in found:
        if not each.keys & seen:
            yield each
        seen |= each.keys
