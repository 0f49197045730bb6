"""Baselines of the best student, built over the same seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.metrics import NETWORK_METRICS
from stillhouse.search.evaluation.finalists import Finalist, build_finalist
from stillhouse.search.evaluation.width_scaling import scale_width
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.experiment.variants import labels_only
from stillhouse.search.results.outcome import SeedRuns
from stillhouse.search.stages.chain import Chain
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.assemble import AssembleNetwork
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.limits import Limit


def make_baselines(
    experiment: Experiment, best_finalist: Finalist, library: Library
) -> list[Finalist]:
    """The baselines of a configuration, over the same seeds.

    ``plain``: the same student and training, labels alone. ``direct``: the same student and
    objective, taught by the teacher at the root alone (the largest, where there are several)
    instead of by assistants.

    A student that goes on from an assembly has more, all for as many images as it and its
    neighbourhoods have seen. ``scratch`` is its architecture from random weights, labels alone;
    ``end to end`` is the same with its own objective and teachers; ``scale_width`` is the
    assembly's teacher narrowed uniformly under the assembly's budgets. These three take
    ``run.repeats.from_random``: a fine-tuning's learning rate is too small for random weights.
    ``assembled`` is what the student goes on from, and has no seeds.

    What would be one student under two names is there once. One may be the best itself, like
    ``direct`` of a student that the root teaches: :func:`split_own_baselines` tells. There are none
    for a student that has no teacher and goes on from no assembly.
    """
    stages, data = experiment.with_values(best_finalist.values)
    fixed_experiment = replace(experiment, stages=stages, data=data, search={})
    graph = fixed_experiment.stage_graph()
    if not isinstance(graph.student.operation, TrainNetwork) or not isinstance(
        fixed_experiment.stage_configs[fixed_experiment.final_name], Train
    ):
        return []
    student = _ReferenceStudent(fixed_experiment, graph.student, best_finalist)
    assembly = assembly_of(graph.student)
    teacher_baselines = list(student.finalists_for(student.teacher_baselines()))
    if assembly is None:
        return list(_distinct_finalists(teacher_baselines))
    assembly_baselines = student.finalists_for(student.random_weight_baselines(assembly, library))
    return list(
        _distinct_finalists(
            [student.assembly_finalist(graph, assembly), *teacher_baselines, *assembly_baselines]
        )
    )


def split_own_baselines(
    best: Finalist, baseline_finalists: Sequence[Finalist]
) -> tuple[Finalist, tuple[Finalist, ...]]:
    """The best with the roles of baselines that coincide with it, and the other baselines."""
    own_keys = {graph.student.key for graph in best.graphs.values()}
    others = tuple(
        finalist for finalist in baseline_finalists if not own_keys & finalist.student_keys
    )
    own_roles = tuple(
        finalist.role for finalist in baseline_finalists if own_keys & finalist.student_keys
    )
    return replace(best, coincides_with=own_roles), others


def add_baselines(
    experiment: Experiment,
    finalists: Sequence[Finalist],
    best: Collection[SeedRuns],
    library: Library,
) -> list[Finalist]:
    """``finalists``, the ``best`` of it noted as :func:`split_own_baselines` does, and their
    baselines."""
    with_roles: list[Finalist] = []
    other_baselines: list[Finalist] = []
    best_roles = {(seed_runs.role, seed_runs.group) for seed_runs in best}
    for finalist in finalists:
        if (finalist.role, finalist.group) in best_roles:
            finalist, others = split_own_baselines(
                finalist, make_baselines(experiment, finalist, library)
            )
            other_baselines += others
        with_roles.append(finalist)
    return with_roles + other_baselines


@dataclass(frozen=True)
class _ReferenceStudent:
    """The student that baselines are derived from, with its fixed experiment and its stage."""

    experiment: Experiment
    stage: Stage
    best: Finalist

    @property
    def stage_data(self) -> dict[str, Any]:
        """As it is written."""
        return dict(self.experiment.stages[self.experiment.final_name])

    @property
    def teachers(self) -> tuple[Stage, ...]:
        operation = self.stage.operation
        assert isinstance(operation, TrainNetwork)
        return self.stage.parents[operation.num_leading_parents :]

    def finalists_for(self, stage_data_by_role: Mapping[str, dict[str, Any]]) -> Iterator[Finalist]:
        """A finalist for each role, with the role's student configuration."""
        for role, stage_data in stage_data_by_role.items():
            stages = {**self.experiment.stages, self.experiment.final_name: stage_data}
            experiment = replace(self.experiment, stages=stages)
            is_same_network = role != "uniform"
            metrics = self.best.device_metrics if is_same_network else {}
            yield build_finalist(role, experiment, {}, self.best.graphs, metrics, self.best.group)

    def assembly_finalist(self, graph: StageGraph, assembly: Stage) -> Finalist:
        """The assembly itself: made once, so there is no seed to repeat it over."""
        assembly_graph = StageGraph(graph.expanded_stages, assembly)
        return Finalist(
            "assembled", {}, {0: assembly_graph}, self.best.device_metrics, self.best.group
        )

    def teacher_baselines(self) -> dict[str, dict[str, Any]]:
        """The same start and training, other teachers."""
        teacher_ancestors = [stage for teacher in self.teachers for stage in teacher.ancestors()]
        if not (teacher_ancestors and self.stage_data.get("objective")):
            return {}
        plain = {"plain": {**self.stage_data, **self._labels_only}}
        root_teacher = self._root_teacher(teacher_ancestors)
        return (
            {**plain, "direct": {**self.stage_data, "teachers": [root_teacher]}}
            if root_teacher
            else plain
        )

    def _root_teacher(self, teacher_ancestors: Sequence[Stage]) -> str | None:
        """The entry of the largest teacher that nobody taught; of equals the first."""
        # A prerequisite of a method is no entry: the method requests it again.
        sizes = {
            name: stage.operation.costs(stage.data).get("parameters", 0.0)
            for stage in teacher_ancestors
            if not stage.parents and (name := self._stage_name(stage.label))
        }
        return max(sizes, key=lambda name: sizes[name], default=None)

    def _stage_name(self, label: str) -> str:
        """The entry that a stage without parents stands for; of a ready link, its chain's head."""
        name = label.partition("/")[0]
        stage_config = self.experiment.stage_configs.get(name)
        if isinstance(stage_config, Chain):
            return stage_config.teacher
        return name if name == label and stage_config else ""

    def random_weight_baselines(
        self, assembly: Stage, library: Library
    ) -> dict[str, dict[str, Any]]:
        """The same objective for the same images, from random weights."""
        training_changes = self.experiment.run.repeats.from_random
        training_settings = {**(self.stage_data.get("training") or {}), **training_changes}
        training = {**training_settings, "epochs": equal_image_epochs(self.stage)}
        from_random = {
            **self.stage_data,
            "start": assembly.label,
            "anew": True,
            "training": training,
        }
        baselines_by_role = {
            "scratch": {**from_random, **self._labels_only},
            "end to end": from_random,
        }
        record = library.record(assembly.key)
        if record is not None and (
            network_spec := _uniform_baseline(assembly, record.figures["parameters"])
        ):
            without_start = {k: v for k, v in from_random.items() if k not in ("start", "anew")}
            baselines_by_role["uniform"] = {**without_start, "network": network_spec}
        return baselines_by_role

    @property
    def _labels_only(self) -> dict[str, Any]:
        """The settings that train from labels alone; the student's own if it has no teacher."""
        return labels_only(self.stage_data) if self.teachers else {}


def assembly_of(student: Stage) -> Stage | None:
    """The assembly that a student goes on from, perhaps by way of other students."""
    stage = student
    while isinstance(stage.operation, TrainNetwork) and stage.operation.network is None:
        if stage.operation.anew:
            return None
        stage = stage.parents[0]
    return stage if isinstance(stage.operation, AssembleNetwork) else None


def equal_image_epochs(student: Stage) -> int:
    """Epochs of its data in which a student sees as many images as it and all it goes on from.

    The neighbourhoods of an assembly are distilled side by side and count as one of them. Not
    counted is what is looked at without learning: principal channels, batch-norm statistics.
    """
    images, stage = 0, student
    while isinstance(stage.operation, TrainNetwork):
        images += stage.operation.epochs * _train_size(stage.data)
        if stage.operation.network is not None or stage.operation.anew:
            break
        stage = stage.parents[0]
    neighbourhoods = [
        neighbourhood
        for neighbourhood in stage.parents
        if neighbourhood.operation.kind == "neighbourhood"
    ]
    images += max(
        (
            neighbourhood.operation.epochs * _train_size(neighbourhood.data)
            for neighbourhood in neighbourhoods
        ),
        default=0,
    )
    return -(-images // _train_size(student.data))


def _train_size(data: DataConfig) -> int:
    return facts(data).sizes["train"]


def _uniform_baseline(assembly: Stage, parameters: float) -> dict[str, Any] | None:
    """The teacher's family at the assembly's budgets, or at its size where they do not decide."""
    operation, teacher = assembly.operation, assembly.parents[0].operation
    assert isinstance(operation, AssembleNetwork)
    assert isinstance(teacher, TrainNetwork)
    if teacher.network is None:
        return None
    limits = {name: limit for name, limit in operation.budgets.items() if name in NETWORK_METRICS}
    has_other_budgets = len(limits) < len(operation.budgets)
    if has_other_budgets or all(limit.max is None for limit in limits.values()):
        limits["parameters"] = Limit(max=parameters)
    about = facts(assembly.data)
    spec = scale_width(teacher.network, about.shape, about.classes, limits)
    return spec.plain() if spec else None


def _distinct_finalists(finalists: Iterable[Finalist]) -> Iterator[Finalist]:
    """Drop finalists that share a student with an earlier one."""
    seen: set[str] = set()
    for finalist in finalists:
        if not finalist.student_keys & seen:
            yield finalist
        seen |= finalist.student_keys
