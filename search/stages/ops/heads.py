"""The work behind heads: a trained network gets classifiers on its inner blocks."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import field_validator

from stillhouse.methods.core.config.requirements import At
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.evaluation import validated, validated_names
from stillhouse.methods.core.training.heads import train_heads
from stillhouse.methods.core.training.train import Training
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import described, outline, rebuild
from stillhouse.search.stages.core.stage import APART, COSTS, Bench, Product, Report, Stage, Work
from stillhouse.spaces.compression.quantisation import stored
from stillhouse.spaces.config.base import canonical_json, knob
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown
from stillhouse.spaces.cost import costs
from stillhouse.spaces.modules.heads import maps, stage_ends, with_linear_heads
from stillhouse.spaces.modules.network import Shape, head_of


class AttachHeads(Work):
    """The first parent's network as it is, with a linear head on some blocks, taught together."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "heads"
    makes_network: ClassVar[bool] = True

    at: At = knob("stages", "blocks that get one, or stages for the end of each")
    training: Training = knob(Training(), "how all of them are trained")
    seed: int = knob(0, "initialisation and order of examples", ge=0)

    @field_validator("training")
    @classmethod
    def _no_average(cls, training: Training) -> Training:
        if training.ema is not None:
            raise ValueError("each head keeps its own best epoch, no average; leave ema out")
        return training.on_one_worker("heads learn")

    def identity(self) -> dict[str, Any]:
        return {**self.plain(), "training": self.training.identity()}

    def again(self, number: int) -> AttachHeads:
        return self.model_copy(update={"seed": self.seed + APART * number})

    @property
    def epochs(self) -> int:
        return self.training.epochs

    def figures(self, stage: Stage) -> frozenset[str]:
        """Those of single heads only where it is known beforehand which blocks get one."""
        found = COSTS | validated_names(stage.data, stage.subclasses)
        heads = [head_of(block) for block in known_heads(stage) or ()]
        if found - COSTS:
            found |= {f"{head}_{name}" for head in heads for name in ("val_accuracy", "best_epoch")}
        return found | {"lr", "train_loss", "seconds", *(f"train_{head}" for head in heads)}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset, network = open_data(data), rebuild(parents[0])
        there = maps(network, dataset.shape)
        at = stage_ends(there) if self.at == "stages" else self.at
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = with_linear_heads(network, dataset.shape, dataset.classes, at)
        report: Report = {}
        for report in train_heads(
            network,
            dataset,
            self.training,
            seed=self.seed,
            device=bench.device,
            saves=bench.saves,
        ):
            yield report
        figures = _kept(report) | costs(network, dataset.shape).plain()
        figures |= validated(network, dataset, bench.device)
        structure = {**described(parents[0]), "heads": list(at)}
        told = {"data": facts(data).plain(), "assembly": structure}
        return Product(stored(network), figures, told)


def _kept(report: Report) -> dict[str, float]:
    """An epoch's figures, with each head's as it was kept."""
    best = "_best_val_accuracy"
    figures = {k: v for k, v in report.items() if k != "epoch" and not k.endswith(best)}
    kept = {k.replace(best, "_val_accuracy"): v for k, v in report.items() if k.endswith(best)}
    return figures | kept


def headed(stage: Stage) -> bool:
    """Whether the network that a stage makes has heads."""
    goes_on = stage.work.kind == "train" and getattr(stage.work, "network", None) is None
    return isinstance(stage.work, AttachHeads) or (goes_on and headed(stage.parents[0]))


def heads_on(label: str, teacher: Stage, work: AttachHeads, data: DataConfig) -> Stage:
    """The stage that gives heads to what ``teacher`` makes.

    Raises:
        ConfigError: it is no network, has no such block, or ``data`` has no labels.
    """
    if not teacher.work.makes_network:
        message = f"{teacher.label} is a {teacher.work.kind}, no network that could have heads"
        raise ConfigError([Problem("teacher", message)])
    if data.augment.noise:
        message = "heads learn from labels, and data.augment.noise leaves none; give them images"
        raise ConfigError([Problem("teacher", message)])
    if work.at != "stages":
        require_blocks("at", work.at, known_maps(teacher))
    return Stage(label, work, data, (teacher,))


def known_maps(teacher: Stage) -> Mapping[str, Shape] | None:
    """The blocks of a teacher that give maps; none where they are known when it is made."""
    spec: Any = getattr(teacher.work, "network", None)
    if isinstance(teacher.work, AttachHeads):
        return known_maps(teacher.parents[0])
    if spec is None:
        return None
    about = facts(teacher.data)
    network, _ = outline(canonical_json(spec.plain()), about.shape, about.classes)
    return maps(network, about.shape)


def known_heads(stage: Stage) -> Sequence[str] | None:
    """The blocks with heads of what ``stage`` makes; none where they are known when it is made."""
    if isinstance(stage.work, AttachHeads):
        there = known_maps(stage)
        at = stage.work.at
        return (stage_ends(there) if there else None) if at == "stages" else at
    return known_heads(stage.parents[0]) if headed(stage) else None


def require_blocks(
    field: Literal["at", "weights"], names: Sequence[str], there: Collection[str] | None
) -> None:
    """Refuse names that are not among ``there``, where that is known.

    Raises:
        ConfigError: one problem for each.
    """
    what = "block that gives a map" if field == "at" else "head"
    wrong = [Problem(field, unknown(what, n, there)) for n in names if there and n not in there]
    if wrong:
        raise ConfigError(wrong)
