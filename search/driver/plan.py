"""The stages and trials that a launch would run, and an estimate of their time."""

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
from stillhouse.search.assembly.network import sketch_and_cuts
from stillhouse.search.evaluation.baselines import make_baselines, split_own_baselines
from stillhouse.search.evaluation.factorial import factorial_cells
from stillhouse.search.evaluation.finalists import select_finalists
from stillhouse.search.execution.builder import MAX_BATCH_SIZE
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.results.outcome import TrialResult
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.neighbourhoods import require_named_network
from stillhouse.search.stages.ops.assemble import AssembleNetwork
from stillhouse.search.stages.ops.distil_data import DistilData
from stillhouse.search.stages.ops.heads import AttachHeads
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood
from stillhouse.search.stages.ops.prune import PruneNetwork
from stillhouse.search.stages.ops.quantise import QuantiseNetwork
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import canonical_json
from stillhouse.spaces.config.domains import ConditionalDomain, LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import Costs, compute_costs
from stillhouse.spaces.modules.cuts import narrowed_shape
from stillhouse.spaces.modules.network import on_device_of
from stillhouse.spaces.network_spec import NetworkSpec

MAX_CONFIGURATIONS = 2000
_MAX_PROBED_VALUES = 16
"""Maximum number of values tried to see whether shared stages depend on a domain."""


@dataclass(frozen=True)
class PlannedStage:
    """A shared stage that trials may need; ``seconds`` is the estimated time to build it."""

    key: str
    label: str
    kind: str
    teachers: tuple[str, ...]
    parameters: int
    there: bool
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The plan of a search; ``exact`` if it covers every configuration, not a sample."""

    stages: tuple[PlannedStage, ...]
    exact: bool
    trials: int
    repeats: int
    slots: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def plan_search(experiment: Experiment, slots: int = 0) -> Plan:
    """Expand the search, and estimate its time from a few training steps of each network."""
    slots = slots or max(1, int((os.cpu_count() or 1) / experiment.run.resources.cpu))
    torch.set_num_threads(max(1, int(experiment.run.resources.cpu)))
    library = Library(experiment.library)
    graphs, exact = _distinct_graphs(experiment)
    estimator = _StageTimeEstimator()
    factorial_graphs = _factorial_graphs(experiment)
    shared = {s.key: s for graph in (*graphs, *factorial_graphs) for s in graph.prerequisites}
    seconds_per_screening, trained_share = 0.0, 1.0
    if screen := experiment.run.screen:
        *screening_prerequisites, student = screen_student(experiment, {}).ancestors()
        shared |= {stage.key: stage for stage in screening_prerequisites}
        seconds_per_screening = estimator.seconds(student)
        trained_share = screen.keep + (1 - screen.keep) * screen.check
    stages = tuple(_planned_stage(stage, library, estimator) for stage in shared.values())
    students = [estimator.seconds(graph.student) for graph in graphs]
    trials = experiment.trials
    seconds_per_trial = sum(students) / len(students)
    if experiment.factorial:
        repeats = len(factorial_graphs)
        repeat_seconds = sum(estimator.seconds(graph.student) for graph in factorial_graphs)
    else:
        repeats = _count_repeats(experiment, library)
        repeat_seconds = seconds_per_trial * repeats
    missing_seconds = sum(stage.seconds for stage in stages if not stage.there)
    total_seconds = (
        missing_seconds
        + seconds_per_screening * trials
        + seconds_per_trial * trained_share * trials
        + repeat_seconds
    )
    return Plan(stages, exact, trials, repeats, slots, total_seconds / slots)


def _distinct_graphs(experiment: Experiment) -> tuple[list[StageGraph], bool]:
    """The stage graphs that differ in their shared stages; whether these are all."""
    prerequisites = experiment.stage_graph().prerequisites
    shared_paths = [
        path
        for path in experiment.search
        if _decides_shared_stages(path, experiment, prerequisites)
    ]
    is_finite = not any(
        isinstance(experiment.search[p], Uniform | LogUniform | ConditionalDomain)
        for p in shared_paths
    )
    if is_finite:
        shared_experiment = replace(
            experiment, search={path: experiment.search[path] for path in shared_paths}
        )
        configurations = list(
            itertools.islice(shared_experiment.configurations(1), MAX_CONFIGURATIONS + 1)
        )
        if len(configurations) <= MAX_CONFIGURATIONS:
            return [experiment.stage_graph(configuration) for configuration in configurations], True
    return list(_sampled_graphs(experiment)), False


def _decides_shared_stages(
    path: str, experiment: Experiment, prerequisites: Sequence[Stage]
) -> bool:
    """Whether shared stages depend on a searched path.

    Settings of the final entry may change them too, such as its teachers, its start, or an
    objective that needs heads. A few values of the domain show it.

    Args:
        prerequisites: the shared stages of the file's own configuration.
    """
    domain = experiment.search[path]
    # Of an entry with several stages, all but the last are shared.
    own_prefix = f"{experiment.final_name}/"
    has_own_prerequisites = any(stage.label.startswith(own_prefix) for stage in prerequisites)
    is_final_setting = path.startswith(f"{experiment.final_name}.")
    if has_own_prerequisites or not is_final_setting or isinstance(domain, ConditionalDomain):
        return True
    known_keys = {stage.key for stage in prerequisites}
    return any(
        _prerequisite_keys(path, value, experiment) != known_keys
        for value in domain.grid(2)[:_MAX_PROBED_VALUES]
    )


def _prerequisite_keys(path: str, value: Any, experiment: Experiment) -> set[str]:
    """The keys that a trial needs with one value changed; empty if the value is invalid."""
    try:
        return {stage.key for stage in experiment.stage_graph({path: value}).prerequisites}
    except ConfigError:
        return set()


def _sampled_graphs(experiment: Experiment) -> Iterator[StageGraph]:
    """A sample of the stage graphs: that of the file, and random ones."""
    yield experiment.stage_graph()
    suggester = _RandomSuggester(experiment.run.seed)
    for _ in range(min(experiment.run.trials, 200)):
        with contextlib.suppress(ConfigError):  # a combination of values may be invalid
            yield experiment.stage_graph(experiment.suggest(suggester))


def _factorial_graphs(experiment: Experiment) -> list[StageGraph]:
    """The distinct graphs of a factorial's students, without that of its trial."""
    if not experiment.factorial:
        return []
    graphs = [graph for cell in factorial_cells(experiment) for graph in cell.graphs.values()]
    by_student_key = {graph.student.key: graph for graph in graphs}
    by_student_key.pop(experiment.stage_graph().student.key, None)
    return list(by_student_key.values())


def _count_repeats(experiment: Experiment, library: Library) -> int:
    """The number of students of repetitions and baselines."""
    run_settings, path = experiment.run, experiment.run.repeats.of_each
    num_groups = len(experiment.search[path].grid(1)) if path else 1
    ungrouped = run_settings.repeats.model_copy(update={"of_each": None})
    ungrouped_experiment = replace(
        experiment, run=run_settings.model_copy(update={"repeats": ungrouped})
    )
    best_finalist = select_finalists(
        ungrouped_experiment, [TrialResult(0, "finished", {}, {"student": ""})]
    )[0]
    baseline_finalists = (
        make_baselines(ungrouped_experiment, best_finalist, library)
        if run_settings.baselines
        else []
    )
    _, other_baselines = split_own_baselines(best_finalist, baseline_finalists)
    seed_counts = [
        len(finalist.graphs) for finalist in other_baselines if finalist.role != "assembled"
    ]
    new_seeds = run_settings.repeats.seeds if run_settings.repeats.top else 0
    return num_groups * (run_settings.repeats.top * new_seeds + sum(seed_counts))


def _planned_stage(stage: Stage, library: Library, estimator: _StageTimeEstimator) -> PlannedStage:
    costs = stage.operation.costs(stage.data)
    return PlannedStage(
        key=stage.key,
        label=stage.label,
        kind=stage.operation.kind,
        teachers=tuple(parent.label for parent in stage.parents),
        parameters=int(costs.get("parameters", 0)),
        there=library.has(stage.key),
        seconds=estimator.seconds(stage),
    )


class _RandomSuggester:
    """Suggests random values."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
        return self._random.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, step: int) -> int:
        return self._random.randrange(low, high + 1, step)

    def suggest_index(self, name: str, count: int, labels: Sequence[str]) -> int:
        return self._random.randrange(count)


class _StageTimeEstimator:
    """Estimates stage times from a few timed steps of each network."""

    def __init__(self) -> None:
        self._seconds_per_image: dict[tuple[str, bool], float] = {}

    def seconds(self, stage: Stage) -> float:
        """The estimated seconds of a stage: its epochs over its examples, teachers included.

        A student that starts from an assembly counts with the budgets' share of the teacher, a
        neighbourhood with its share of a batch. Zero if nothing is known.
        """
        if isinstance(stage.operation, TrainNetwork):
            return self._training_seconds(stage, stage.operation)
        if isinstance(stage.operation, AttachHeads):
            examples = facts(stage.data).sizes["train"]
            return self._seconds_of_stage(stage, training=False) * examples * stage.operation.epochs
        if isinstance(stage.operation, DistilNeighbourhood):
            return self._neighbourhood_seconds(stage, stage.operation)
        if isinstance(stage.operation, DistilData):
            return self._distillation_seconds(stage, stage.operation)
        if isinstance(stage.operation, PruneNetwork | QuantiseNetwork):
            return self._compression_seconds(stage, stage.operation)
        return 0.0

    def _training_seconds(self, stage: Stage, operation: TrainNetwork) -> float:
        about = facts(stage.data)
        examples = about.sizes["train"] if operation.objective else about.sizes["validation"]
        for parent in stage.parents[: operation.num_leading_parents]:
            if isinstance(parent.operation, DistilData) and operation.objective:
                examples = parent.operation.examples * parent.operation.steps
        seconds_per_image = self._seconds_of_stage(stage, training=operation.objective is not None)
        student_seconds = seconds_per_image * examples * operation.epochs
        # Teacher outputs are cached for each view, so a teacher runs once over each view.
        augment = stage.data.augment
        views = min(operation.epochs, augment.views or operation.epochs) if augment.is_active else 1
        teachers = stage.parents[operation.num_leading_parents :]
        teacher_seconds_per_image = sum(
            self._seconds_of_stage(teacher, training=False) for teacher in teachers
        )
        return student_seconds + teacher_seconds_per_image * examples * views

    def _compression_seconds(
        self, stage: Stage, operation: PruneNetwork | QuantiseNetwork
    ) -> float:
        """Seconds for the batches of statistics, and for the validation split."""
        sizes = facts(stage.data).sizes
        batches = (
            operation.recalibrate if isinstance(operation, PruneNetwork) else operation.batches
        )
        num_images = min(256 * batches, sizes["train"]) + sizes["validation"]
        return self._seconds_of_stage(stage, training=False) * num_images

    def _distillation_seconds(self, stage: Stage, operation: DistilData) -> float:
        """Seconds of all iterations; a step costs a forward pass and two backward passes."""
        num_networks = operation.networks if operation.start == "random" else 1
        num_images = (
            operation.batch_size + 3 * operation.examples * operation.steps * operation.passes
        )
        seconds_per_image = self._seconds_of_network(
            operation.network, facts(stage.data), training=True
        )
        return seconds_per_image * num_images * num_networks * operation.iterations

    def _neighbourhood_seconds(self, stage: Stage, operation: DistilNeighbourhood) -> float:
        teacher = stage.parents[0]
        teacher_flops = teacher.operation.costs(stage.data)["flops"]
        share = _neighbourhood_costs(stage, operation).flops / max(teacher_flops, 1.0)
        seconds_per_image = share * self._seconds_of_stage(teacher, training=True)
        seconds_per_image += self._seconds_of_stage(teacher, training=False) / MAX_BATCH_SIZE
        return seconds_per_image * facts(stage.data).sizes["train"] * operation.epochs

    def _seconds_of_stage(self, stage: Stage, training: bool) -> float:
        """Seconds for one image in the network of a stage."""
        operation = stage.operation
        if isinstance(operation, AssembleNetwork):
            return _budget_share(stage, operation) * self._seconds_of_stage(
                stage.parents[0], training
            )
        if isinstance(operation, AttachHeads | PruneNetwork | QuantiseNetwork):
            return self._seconds_of_stage(stage.parents[0], training)
        if not isinstance(operation, TrainNetwork):
            return 0.0
        if operation.network is None:
            return self._seconds_of_stage(stage.parents[0], training)
        trained_networks = [operation.network, *(operation.peer_networks if training else ())]
        return sum(
            self._seconds_of_network(spec, facts(stage.data), training) for spec in trained_networks
        )

    def _seconds_of_network(
        self, spec: NetworkSpec, data_facts: DataFacts, training: bool
    ) -> float:
        cache_key = (f"{spec.plain()}{data_facts.shape}", training)
        if cache_key not in self._seconds_per_image:
            network = spec.build(data_facts.shape, data_facts.classes).train(training)
            images = torch.rand(32, *data_facts.shape)
            self._seconds_per_image[cache_key] = _fastest_pass(network, images, training) / len(
                images
            )
        return self._seconds_per_image[cache_key]


def _neighbourhood_costs(stage: Stage, operation: DistilNeighbourhood) -> Costs:
    """The costs of a replacement, before its stage is built."""
    about, spec = facts(stage.data), require_named_network(stage.parents[0])
    teacher, cut_shapes = sketch_and_cuts(canonical_json(spec.plain()), about.shape, about.classes)
    with on_device_of(teacher):
        module = operation.replacement.build(teacher, cut_shapes)
    return compute_costs(module, narrowed_shape(cut_shapes[operation.start], operation.enter))


def _budget_share(assembly: Stage, operation: AssembleNetwork) -> float:
    """The share of the teacher's costs that the budgets allow."""
    teacher_costs = assembly.parents[0].operation.costs(assembly.data)
    shares = [
        limit.max / teacher_costs[cost]
        for cost, limit in operation.budgets.items()
        if limit.max is not None and teacher_costs.get(cost)
    ]
    return min([1.0, *shares])


def _fastest_pass(network: torch.nn.Module, images: torch.Tensor, training: bool) -> float:
    """Seconds of the fastest of several passes, since other load only slows a pass."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.2 and len(times) < 20):
        started = time.perf_counter()
        with torch.set_grad_enabled(training):
            logits = network(images, ()).logits
            if training:
                logits.sum().backward()
        times.append(time.perf_counter() - started)
    return min(times)
