"""What a launch would run, and about how long: known without running it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from stillhouse.methods.core.data.facts import DataFacts, facts
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import outline
from stillhouse.search.evaluation.baselines import baselines, held_apart
from stillhouse.search.evaluation.factorial import cells
from stillhouse.search.evaluation.finalists import contenders
from stillhouse.search.execution.builder import MOST
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.results.outcome import Trial
from stillhouse.search.stages.assemble import AssembleNetwork
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.distil_data import DistilData
from stillhouse.search.stages.neighbourhoods import cut_open
from stillhouse.search.stages.ops.heads import AttachHeads
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood
from stillhouse.search.stages.ops.prune import PruneNetwork
from stillhouse.search.stages.ops.quantise import QuantiseNetwork
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import canonical_json
from stillhouse.spaces.config.domains import LogUniform, Opening, Uniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import Costs, costs
from stillhouse.spaces.modules.cuts import narrowed
from stillhouse.spaces.modules.network import beside
from stillhouse.spaces.network_spec import NetworkSpec

MOST_CONFIGURATIONS = 2000
_TRIED = 16
"""Values of a domain that are laid out to see whether shared stages depend on it."""


@dataclass(frozen=True)
class PlannedStage:
    """A shared stage that trials may need; ``seconds`` is what making it may take."""

    key: str
    label: str
    kind: str
    teachers: tuple[str, ...]
    parameters: int
    there: bool
    seconds: float


@dataclass(frozen=True)
class Plan:
    """``exact`` if every configuration was looked at, and not a sample of them."""

    stages: tuple[PlannedStage, ...]
    exact: bool
    trials: int
    repeats: int
    slots: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def plan(experiment: Experiment, slots: int = 0) -> Plan:
    """Lay the search out and judge its time by a few training steps of each network."""
    slots = slots or max(1, int((os.cpu_count() or 1) / experiment.run.resources.cpu))
    torch.set_num_threads(max(1, int(experiment.run.resources.cpu)))
    library = Library(experiment.library)
    recipes, exact = _recipes(experiment)
    stopwatch = _Stopwatch()
    crossed = _crossed(experiment)
    shared = {s.key: s for recipe in (*recipes, *crossed) for s in recipe.prerequisites}
    looks, share = 0.0, 1.0
    if screen := experiment.run.screen:
        *rests_on, look = screen_student(experiment, {}).lineage()
        shared |= {stage.key: stage for stage in rests_on}
        looks = stopwatch.seconds(look)
        share = screen.keep + (1 - screen.keep) * screen.check
    stages = tuple(_planned(stage, library, stopwatch) for stage in shared.values())
    students = [stopwatch.seconds(recipe.student) for recipe in recipes]
    trials = experiment.trials
    each = sum(students) / len(students)
    if experiment.factorial:
        repeats = len(crossed)
        again = sum(stopwatch.seconds(recipe.student) for recipe in crossed)
    else:
        repeats = _repeats(experiment, library)
        again = each * repeats
    missing = sum(stage.seconds for stage in stages if not stage.there)
    total = missing + looks * trials + each * share * trials + again
    return Plan(stages, exact, trials, repeats, slots, total / slots)


def _recipes(experiment: Experiment) -> tuple[list[Recipe], bool]:
    """The recipes that differ in their shared stages; whether these are all."""
    rests_on = experiment.recipe().prerequisites
    shared = [path for path in experiment.search if _shared(path, experiment, rests_on)]
    finite = not any(
        isinstance(experiment.search[p], Uniform | LogUniform | Opening) for p in shared
    )
    if finite:
        small = replace(experiment, search={path: experiment.search[path] for path in shared})
        values = list(itertools.islice(small.configurations(1), MOST_CONFIGURATIONS + 1))
        if len(values) <= MOST_CONFIGURATIONS:
            return [experiment.recipe(each) for each in values], True
    return list(_sampled(experiment)), False


def _shared(path: str, experiment: Experiment, rests_on: Sequence[Stage]) -> bool:
    """Whether a searched path decides stages that trials share, as ``rests_on`` in the file.

    A setting of the last entry may do so too: who teaches it, what it goes on from, an objective
    that needs heads. A few values of its domain tell.
    """
    domain = experiment.search[path]
    own = f"{experiment.final}/"  # an entry of several stages shares those before its last
    several = any(stage.label.startswith(own) for stage in rests_on)
    alone = path.startswith(f"{experiment.final}.")
    if several or not alone or isinstance(domain, Opening):
        return True
    known = {stage.key for stage in rests_on}
    return any(_needs(path, value, experiment) != known for value in domain.grid(2)[:_TRIED])


def _needs(path: str, value: Any, experiment: Experiment) -> set[str]:
    """The keys that a trial rests on with one value laid over the file; none where it cannot be."""
    try:
        return {stage.key for stage in experiment.recipe({path: value}).prerequisites}
    except ConfigError:
        return set()


def _sampled(experiment: Experiment) -> Iterator[Recipe]:
    """Some of the recipes there can be: the one in the file, and others at random."""
    yield experiment.recipe()
    chooser = _Dice(experiment.run.seed)
    for _ in range(min(experiment.run.trials, 200)):
        with contextlib.suppress(ConfigError):  # values that do not go together are refused
            yield experiment.recipe(experiment.draw(chooser))


def _crossed(experiment: Experiment) -> list[Recipe]:
    """Those of a factorial's students, each once, beside the one that its trial makes."""
    if not experiment.factorial:
        return []
    recipes = [recipe for cell in cells(experiment) for recipe in cell.recipes.values()]
    distinct = {recipe.student.key: recipe for recipe in recipes}
    distinct.pop(experiment.recipe().student.key, None)
    return list(distinct.values())


def _repeats(experiment: Experiment, library: Library) -> int:
    """How many students the repetitions and baselines make."""
    run, path = experiment.run, experiment.run.repeats.of_each
    groups = len(experiment.search[path].grid(1)) if path else 1
    together = run.repeats.model_copy(update={"of_each": None})
    whole = replace(experiment, run=run.model_copy(update={"repeats": together}))
    best = contenders(whole, [Trial(0, "finished", {}, {"student": ""})])[0]
    found = baselines(whole, best, library) if run.baselines else []
    _, against = held_apart(best, found)
    made = [len(each.recipes) for each in against if each.role != "assembled"]
    new = run.repeats.seeds if run.repeats.top else 0
    return groups * (run.repeats.top * new + sum(made))


def _planned(stage: Stage, library: Library, stopwatch: _Stopwatch) -> PlannedStage:
    known = stage.work.costs(stage.data)
    return PlannedStage(
        key=stage.key,
        label=stage.label,
        kind=stage.work.kind,
        teachers=tuple(parent.label for parent in stage.parents),
        parameters=int(known.get("parameters", 0)),
        there=library.has(stage.key),
        seconds=stopwatch.seconds(stage),
    )


class _Dice:
    """Draws at random."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uniform(self, name: str, low: float, high: float, log: bool) -> float:
        return self._random.uniform(low, high)

    def integer(self, name: str, low: int, high: int, step: int) -> int:
        return self._random.randrange(low, high + 1, step)

    def choice(self, name: str, count: int, labels: Sequence[str]) -> int:
        return self._random.randrange(count)


class _Stopwatch:
    """Times a few steps of each network once, on images of the stage's shape."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bool], float] = {}

    def seconds(self, stage: Stage) -> float:
        """About how long a stage takes: its epochs over its examples, teachers included.

        A student that goes on from an assembly counts with the budgets' share of the teacher;
        a neighbourhood with its share of a pass. Zero where nothing is known.
        """
        if isinstance(stage.work, TrainNetwork):
            return self._training(stage, stage.work)
        if isinstance(stage.work, AttachHeads):
            examples = facts(stage.data).sizes["train"]
            return self._per_image(stage, training=False) * examples * stage.work.epochs
        if isinstance(stage.work, DistilNeighbourhood):
            return self._neighbourhood(stage, stage.work)
        if isinstance(stage.work, DistilData):
            return self._distilling(stage, stage.work)
        if isinstance(stage.work, PruneNetwork | QuantiseNetwork):
            return self._compressing(stage, stage.work)
        return 0.0

    def _training(self, stage: Stage, work: TrainNetwork) -> float:
        about = facts(stage.data)
        examples = about.sizes["train"] if work.objective else about.sizes["validation"]
        for made in stage.parents[: work.leading]:
            if isinstance(made.work, DistilData) and work.objective:
                examples = made.work.examples * made.work.steps
        each = self._per_image(stage, training=work.objective is not None)
        total = each * examples * work.epochs
        # What a teacher says of a view is kept: it passes over each view once.
        augment = stage.data.augment
        views = min(work.epochs, augment.views or work.epochs) if augment.active else 1
        teachers = stage.parents[work.leading :]
        heard = sum(self._per_image(teacher, training=False) for teacher in teachers)
        return total + heard * examples * views

    def _compressing(self, stage: Stage, work: PruneNetwork | QuantiseNetwork) -> float:
        """Some training batches for statistics, and the validation split."""
        sizes = facts(stage.data).sizes
        batches = work.recalibrate if isinstance(work, PruneNetwork) else work.batches
        seen = min(256 * batches, sizes["train"]) + sizes["validation"]
        return self._per_image(stage, training=False) * seen

    def _distilling(self, stage: Stage, work: DistilData) -> float:
        """A step on examples is gone through forwards and, with its gradient's own, backwards."""
        networks = work.networks if work.start == "random" else 1
        seen = work.batch_size + 3 * work.examples * work.steps * work.passes
        each = self._per_pass(work.network, facts(stage.data), training=True)
        return each * seen * networks * work.iterations

    def _neighbourhood(self, stage: Stage, work: DistilNeighbourhood) -> float:
        teacher = stage.parents[0]
        whole = teacher.work.costs(stage.data)["flops"]
        share = _neighbourhood_costs(stage, work).flops / max(whole, 1.0)
        each = share * self._per_image(teacher, training=True)
        each += self._per_image(teacher, training=False) / MOST
        return each * facts(stage.data).sizes["train"] * work.epochs

    def _per_image(self, stage: Stage, training: bool) -> float:
        """Seconds of one image's pass through what a stage makes."""
        work = stage.work
        if isinstance(work, AssembleNetwork):
            return _share(stage, work) * self._per_image(stage.parents[0], training)
        if isinstance(work, AttachHeads | PruneNetwork | QuantiseNetwork):
            return self._per_image(stage.parents[0], training)
        if not isinstance(work, TrainNetwork):
            return 0.0
        if work.network is None:
            return self._per_image(stage.parents[0], training)
        learning = [work.network, *(work.beside if training else ())]
        return sum(self._per_pass(spec, facts(stage.data), training) for spec in learning)

    def _per_pass(self, spec: NetworkSpec, about: DataFacts, training: bool) -> float:
        name = (f"{spec.plain()}{about.shape}", training)
        if name not in self._known:
            network = spec.build(about.shape, about.classes).train(training)
            images = torch.rand(32, *about.shape)
            self._known[name] = _time(network, images, training) / len(images)
        return self._known[name]


def _neighbourhood_costs(stage: Stage, work: DistilNeighbourhood) -> Costs:
    """Those of a replacement that is not there yet."""
    about, spec = facts(stage.data), cut_open(stage.parents[0])
    teacher, at = outline(canonical_json(spec.plain()), about.shape, about.classes)
    with beside(teacher):
        module = work.piece.build(teacher, at)
    return costs(module, narrowed(at[work.start], work.enter))


def _share(assembly: Stage, work: AssembleNetwork) -> float:
    """Of the teacher's work, what the budgets leave."""
    whole = assembly.parents[0].work.costs(assembly.data)
    shares = [
        limit.max / whole[cost]
        for cost, limit in work.budgets.items()
        if limit.max is not None and whole.get(cost)
    ]
    return min([1.0, *shares])


def _time(network: torch.nn.Module, images: torch.Tensor, training: bool) -> float:
    """Seconds of the fastest of several passes: what else the machine does only slows some."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.2 and len(times) < 20):
        started = time.perf_counter()
        with torch.set_grad_enabled(training):
            logits = network(images, ()).logits
            if training:
                logits.sum().backward()
        times.append(time.perf_counter() - started)
    return min(times)
