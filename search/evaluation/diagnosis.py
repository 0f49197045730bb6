"""Teacher diagnosis: how sure a teacher is, how it relates classes, and what of it helps a student.

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
from stillhouse.methods.core.objective.class_similarity import similarities
from stillhouse.methods.core.objective.method import Pair
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.teacher_confidence import (
    confidence,
    geometry,
    matching_sharpness,
)
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import rebuild
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import Repeated
from stillhouse.search.results.statistics import verdict
from stillhouse.search.stages.core.stage import Bench, Product, Report, Stage, Work
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network

SMOOTHING = 0.1
"""Of the student that learns from smoothed labels alone (Szegedy et al. 2016)."""
FIGURE = "val_accuracy"
VARIANTS: Mapping[str, str] = {
    "plain": "labels alone",
    "smoothing": f"labels smoothed by {SMOOTHING}",
    "partial_teacher": "how sure the teacher is (KD-pt)",
    "class_similarity": "which classes are alike (KD-sim)",
    "top_classes": "its likely classes (KD-topk)",
    "partial_similarity": "how sure, and what is alike (KD-pt + sim)",
    "soft_targets": "all it says (soft targets)",
}
Make = Callable[[Sequence[Stage]], Mapping[str, str]]


class DiagnoseTeacher(Work):
    """Figures of the one parent's answers and class weights; its tensors: ``cosines``."""

    kind: ClassVar[str] = "diagnosis"

    temperature: float = knob(4.0, "at which a student would hear the teacher", gt=0.0)

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        network = rebuild(parents[0]).to(bench.device).eval()
        dataset = open_data(data)
        figures: dict[str, float] = {}
        for split in ("train", "validation"):
            said, labels, images = [], [], torch.empty(0)
            for batch in dataset.batches(split, batch_size=512, device=bench.device):
                with torch.no_grad():
                    said.append(network(batch.images, ()).logits.float().cpu())
                labels.append(batch.labels.cpu())
                images = batch.images[:2]
            found = confidence(torch.cat(said), torch.cat(labels), self.temperature)
            figures |= {f"{split}_{name}": value for name, value in found.items()}
        pair = Pair(network, [network], said[0].shape[1], sum(map(len, said)), images)
        cosines = similarities(pair)[0].cpu()
        figures |= geometry(cosines, _width(network))
        yield {"epoch": 1.0}
        return Product({"cosines": cosines}, figures)


def _width(network: Network) -> int:
    last = network.blocks[network.names[-1]]
    return [m.in_features for m in last.modules() if isinstance(m, nn.Linear)][-1]


@dataclass(frozen=True)
class Diagnosis:
    """What was found; ``students`` holds each variant over the seeds, plain ones first."""

    name: str
    teacher: str
    figures: Mapping[str, float]
    cosines: tuple[tuple[float, ...], ...]
    sharpness: float
    students: tuple[Repeated, ...]

    def gain(self, student: Repeated) -> float:
        """Over plain students, in the figure's own unit."""
        return student.mean(FIGURE) - self.students[0].mean(FIGURE)

    def tie(self, student: Repeated) -> bool:
        """Whether the gain is within seed noise."""
        return verdict(student, self.students[0], FIGURE).tie

    def share(self, student: Repeated) -> float | None:
        """Of what soft targets gain; none where they gain nothing that seeds could not."""
        whole = self.students[-1]
        if self.tie(whole) or self.gain(whole) <= 0:
            return None
        return self.gain(student) / self.gain(whole)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        students = [
            {
                "variant": student.role,
                "values": list(student.values(FIGURE)),
                "gain": self.gain(student),
                "share": self.share(student),
                "tie": self.tie(student),
                "keys": [record.key for record in student.records],
            }
            for student in self.students
        ]
        told = {"name": self.name, "teacher": self.teacher, "figures": dict(self.figures)}
        return {**told, "sharpness": self.sharpness, "students": students}


def diagnose(experiment: Experiment, seeds: int, make: Make, library: Library) -> Diagnosis:
    """Have the teacher examined, and the students made, as the experiment's file stands.

    Raises:
        ConfigError: the student has no teacher, or a stage could not be made.
    """
    student = experiment.recipe().student
    work = student.work
    if not (isinstance(work, TrainNetwork) and work.objective and work.network and student.parents):
        message = "diagnose needs a student with a network, an objective and teachers of its own"
        raise ConfigError([Problem(f"stages.{experiment.final}", message)])
    told = work.objective.plain()
    heard = {k: told.get("soft_targets", {}).get(k) for k in ("weight", "temperature")}
    heard = {"weight": heard["weight"] or 1.0, "temperature": heard["temperature"] or 4.0}
    examined = Stage(
        "diagnosis", DiagnoseTeacher(temperature=heard["temperature"]), student.data,
        student.parents[:1],
    )  # fmt: skip
    _made(make, [examined])
    opened = library.open(examined.key)
    cosines = opened.tensors["cosines"]
    sharpness = matching_sharpness(cosines, opened.record.figures["train_softened"])
    objectives = _objectives(told.get("cross_entropy") or {}, heard, sharpness)
    stages = {
        variant: [_student(student, variant, o, work.seed + i) for i in range(seeds)]
        for variant, o in objectives.items()
    }
    _made(make, [stage for some in stages.values() for stage in some])
    return Diagnosis(
        name=experiment.name,
        teacher=student.parents[0].label,
        figures=opened.record.figures,
        cosines=tuple(tuple(row) for row in cosines.tolist()),
        sharpness=sharpness,
        students=tuple(_repeated(v, some, library) for v, some in stages.items()),
    )


def _objectives(
    labels: Mapping[str, Any], heard: Mapping[str, float], sharpness: float
) -> dict[str, Objective]:
    """Each variant's: the file's labels beside the teacher's part, or labels alone."""
    alone = {"weight": 1.0, "label_smoothing": 0.0}
    told: dict[str, Any] = {
        "plain": {"cross_entropy": alone},
        "smoothing": {"cross_entropy": {**alone, "label_smoothing": SMOOTHING}},
    }
    beside = {"cross_entropy": dict(labels)} if labels else {}
    for method in ("partial_teacher", "class_similarity", "top_classes", "partial_similarity"):
        sharp = {"sharpness": sharpness} if "similarity" in method else {}
        told[method] = {**beside, method: {**heard, **sharp}}
    told["soft_targets"] = {**beside, "soft_targets": dict(heard)}
    return {variant: Objective.parse(objective) for variant, objective in told.items()}


def _student(student: Stage, variant: str, objective: Objective, seed: int) -> Stage:
    work = student.work.model_copy(update={"objective": objective, "seed": seed})
    parents = student.parents if objective.needs_teacher else ()
    return Stage(f"{variant}, seed {seed}", work, student.data, parents)


def _made(make: Make, stages: Sequence[Stage]) -> None:
    failed = make(stages)
    if failed:
        labels = {stage.key: stage.label for stage in stages}
        raise ConfigError([Problem(labels.get(key, key), why) for key, why in failed.items()])


def _repeated(variant: str, stages: Sequence[Stage], library: Library) -> Repeated:
    records = tuple(library.open(stage.key).record for stage in stages)
    return Repeated(variant, tuple(range(len(records))), records)
