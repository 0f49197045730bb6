"""Teacher diagnosis: confidence, relations between classes, and what helps a student.

The students are ordinary ``train`` stages, each with one synthetic teacher of Tang et al. 2020 in
the place of the objective: found in the library where a search has made them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.objective.class_similarity import class_similarities
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.teacher_confidence import (
    class_similarity_metrics,
    matching_sharpness,
    teacher_confidence,
)
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import SeedRuns
from stillhouse.search.results.statistics import verdict
from stillhouse.search.stages.core.stage import (
    EpochMetrics,
    Operation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network

SMOOTHING = 0.1
"""Of the student that learns from smoothed labels alone (Szegedy et al. 2016)."""
METRIC = "val_accuracy"
VARIANTS: Mapping[str, str] = {
    "plain": "labels alone",
    "smoothing": f"labels smoothed by {SMOOTHING}",
    "partial_teacher": "how sure the teacher is (KD-pt)",
    "class_similarity": "which classes are alike (KD-sim)",
    "top_classes": "its likely classes (KD-topk)",
    "partial_similarity": "how sure, and what is alike (KD-pt + sim)",
    "soft_targets": "all it says (soft targets)",
}
BuildStages = Callable[[Sequence[Stage]], Mapping[str, str]]


class DiagnoseTeacher(Operation):
    """Figures of the one parent's answers and class weights; its tensors: ``cosines``."""

    kind: ClassVar[str] = "diagnosis"

    temperature: float = setting(4.0, "at which a student would hear the teacher", gt=0.0)

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        network = load_network(parents[0]).to(context.device).eval()
        dataset = open_data(data)
        figures: dict[str, float] = {}
        for split in ("train", "validation"):
            logits, labels, images = [], [], torch.empty(0)
            for batch in dataset.batches(split, batch_size=512, device=context.device):
                with torch.no_grad():
                    logits.append(network(batch.images, ()).logits.float().cpu())
                labels.append(batch.labels.cpu())
                images = batch.images[:2]
            confidence_metrics = teacher_confidence(
                torch.cat(logits), torch.cat(labels), self.temperature
            )
            figures |= {f"{split}_{name}": value for name, value in confidence_metrics.items()}
        build_context = BuildContext(
            network, [network], logits[0].shape[1], sum(map(len, logits)), images
        )
        cosines = class_similarities(build_context)[0].cpu()
        figures |= class_similarity_metrics(cosines, _feature_width(network))
        yield {"epoch": 1.0}
        return StageResult({"cosines": cosines}, figures)


def _feature_width(network: Network) -> int:
    last = network.blocks[network.names[-1]]
    return [m.in_features for m in last.modules() if isinstance(m, nn.Linear)][-1]


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis; ``students`` holds each variant over the seeds, plain ones first."""

    name: str
    teacher: str
    figures: Mapping[str, float]
    cosines: tuple[tuple[float, ...], ...]
    sharpness: float
    students: tuple[SeedRuns, ...]

    def gain(self, student: SeedRuns) -> float:
        """Over plain students, in the figure's own unit."""
        return student.mean(METRIC) - self.students[0].mean(METRIC)

    def is_tie(self, student: SeedRuns) -> bool:
        """Whether the gain is within seed noise."""
        return verdict(student, self.students[0], METRIC).is_tie

    def gain_share(self, student: SeedRuns) -> float | None:
        """Of what soft targets gain; none where they gain nothing that seeds could not."""
        soft_targets = self.students[-1]
        if self.is_tie(soft_targets) or self.gain(soft_targets) <= 0:
            return None
        return self.gain(student) / self.gain(soft_targets)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        students = [
            {
                "variant": student.role,
                "values": list(student.values(METRIC)),
                "gain": self.gain(student),
                "share": self.gain_share(student),
                "tie": self.is_tie(student),
                "keys": [record.key for record in student.records],
            }
            for student in self.students
        ]
        data = {"name": self.name, "teacher": self.teacher, "figures": dict(self.figures)}
        return {**data, "sharpness": self.sharpness, "students": students}


def diagnose_teacher(
    experiment: Experiment, seeds: int, build_stages: BuildStages, library: Library
) -> Diagnosis:
    """Diagnose the teacher and build the students of the experiment as written.

    Raises:
        ConfigError: the student has no teacher, or a stage could not be made.
    """
    student = experiment.stage_graph().student
    work = student.operation
    if not (isinstance(work, TrainNetwork) and work.objective and work.network and student.parents):
        message = "diagnose needs a student with a network, an objective and teachers of its own"
        raise ConfigError([Problem(f"stages.{experiment.final_name}", message)])
    objective_settings = work.objective.plain()
    teacher_settings = {
        k: objective_settings.get("soft_targets", {}).get(k) for k in ("weight", "temperature")
    }
    teacher_settings = {
        "weight": teacher_settings["weight"] or 1.0,
        "temperature": teacher_settings["temperature"] or 4.0,
    }
    diagnosis_stage = Stage(
        "diagnosis", DiagnoseTeacher(temperature=teacher_settings["temperature"]), student.data,
        student.parents[:1],
    )  # fmt: skip
    _build_all(build_stages, [diagnosis_stage])
    artifact = library.open_artifact(diagnosis_stage.key)
    cosines = artifact.tensors["cosines"]
    sharpness = matching_sharpness(cosines, artifact.record.figures["train_softened"])
    objectives = _objectives(
        objective_settings.get("cross_entropy") or {}, teacher_settings, sharpness
    )
    stages = {
        variant: [_student(student, variant, o, work.seed + i) for i in range(seeds)]
        for variant, o in objectives.items()
    }
    _build_all(build_stages, [stage for replicas in stages.values() for stage in replicas])
    return Diagnosis(
        name=experiment.name,
        teacher=student.parents[0].label,
        figures=artifact.record.figures,
        cosines=tuple(tuple(row) for row in cosines.tolist()),
        sharpness=sharpness,
        students=tuple(_seed_runs(v, replicas, library) for v, replicas in stages.items()),
    )


def _objectives(
    label_settings: Mapping[str, Any], teacher_settings: Mapping[str, float], sharpness: float
) -> dict[str, Objective]:
    """Each variant's: the file's labels beside the teacher's part, or labels alone."""
    labels_only = {"weight": 1.0, "label_smoothing": 0.0}
    settings: dict[str, Any] = {
        "plain": {"cross_entropy": labels_only},
        "smoothing": {"cross_entropy": {**labels_only, "label_smoothing": SMOOTHING}},
    }
    label_term = {"cross_entropy": dict(label_settings)} if label_settings else {}
    for method in ("partial_teacher", "class_similarity", "top_classes", "partial_similarity"):
        sharpness_setting = {"sharpness": sharpness} if "similarity" in method else {}
        settings[method] = {**label_term, method: {**teacher_settings, **sharpness_setting}}
    settings["soft_targets"] = {**label_term, "soft_targets": dict(teacher_settings)}
    return {variant: Objective.parse(objective) for variant, objective in settings.items()}


def _student(student: Stage, variant: str, objective: Objective, seed: int) -> Stage:
    work = student.operation.model_copy(update={"objective": objective, "seed": seed})
    parents = student.parents if objective.needs_teacher else ()
    return Stage(f"{variant}, seed {seed}", work, student.data, parents)


def _build_all(build_stages: BuildStages, stages: Sequence[Stage]) -> None:
    failures = build_stages(stages)
    if failures:
        labels = {stage.key: stage.label for stage in stages}
        raise ConfigError(
            [Problem(labels.get(key, key), reason) for key, reason in failures.items()]
        )


def _seed_runs(variant: str, stages: Sequence[Stage], library: Library) -> SeedRuns:
    records = tuple(library.open_artifact(stage.key).record for stage in stages)
    return SeedRuns(variant, tuple(range(len(records))), records)
