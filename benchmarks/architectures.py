"""64 architectures from one pass of neighbourhoods, compared with 64 distillations end to end.

Both ways see the same images for the same number of epochs. The library's way distils all
candidates in one pass. It then plans 64 assemblies, computes their batch-norm statistics again, and
evaluates them. End to end, each of the same 64 architectures starts from random weights and learns
from the teacher's soft targets. Both ways use the same teacher, whose training is not counted.

Measured: a ResNet-56 on handwritten digits of 16x16, nine runs of three blocks, with the product's
own stages on one core. Of the 64 distillations end to end every eighth is run and counted
eightfold.

Counted: images x FLOPs of the real networks on CIFAR-10, with FLOPs from ``stillhouse.spaces.cost``
and a backward pass as two forward passes.

- The pass: one forward of the teacher and of the kept blocks for each batch, forward and backward
  of every candidate that learns, and the scoring of each on held-out images. Scoring also runs the
  teacher's blocks behind the candidate.
- An assembly: forward over 20 batches of 256 and over the held-out images.
- End to end: forward and backward of the student, and its held-out images after each epoch. The
  teacher's outputs are cached: it runs once over each image for all 64. A second ratio has the
  teacher in every step, as augmented images need.

The first row has the architectures of the measured run; the others have the planner's choice for
random scores.

As expected, neighbourhoods pay off if the candidates that learn cost as much as few networks. Nine
runs of three blocks reach the target. All runs of up to six blocks, or runs of one and two blocks
of a ResNet-20, have nearly twice as many candidates. They miss it unless the teacher must run in
every step. Few images make the ratio worse, because each assembly reads 5,120.

    python benchmarks/architectures.py [--distilled 8] [--epochs 8]

Exit status 1 if the measured ratio or the counted one (first row) misses the target.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from _outcome import arguments, outcome

from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import BlockReplacement
from stillhouse.search.assembly.planner import Budget, Edge, assemblies
from stillhouse.search.execution.builder import MAX_BATCH_SIZE, build_batch, build_stage
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.cuts import cut_positions
from stillhouse.spaces.modules.network import Network, Shape
from stillhouse.spaces.network_spec import NetworkSpec

TARGET = 8.0
WINDOWS, RANKS = 16, 4
SMALLEST, LARGEST = 0.25, 0.65
"""Students have these shares of the teacher's parameters, in disjoint windows."""
CIFAR: Shape = (3, 32, 32)
SHIPPED_56 = [
    "kept",
    "shallower",
    {"shallower": {"depth": 2}},
    "pruned",
    "bottleneck",
    "ghost",
    "identity",
]
SHIPPED_20 = ["kept", "pruned", "bottleneck", "depthwise", "ghost", "identity"]
RUNS_OF_3 = {"cuts": list(range(1, 29, 3)), "longest": 3, "candidates": SHIPPED_56}

Architecture = tuple[BlockReplacement, ...]


@dataclass(frozen=True)
class Setting:
    """A search at full size: its network, its candidates and its number of images."""

    name: str
    network: dict[str, Any]
    parts: dict[str, Any]
    images: int
    held_out: int
    epochs: int


RUNS_OF_6 = {**RUNS_OF_3, "longest": 6}
BLOCKS = {"candidates": SHIPPED_20}
TWENTY: dict[str, Any] = {"resnet20": {"shortcut": "A"}}
FIFTY_SIX: dict[str, Any] = {"resnet56": {"shortcut": "A"}}
SETTINGS = (
    Setting("ResNet-56, 9 runs of 3", FIFTY_SIX, RUNS_OF_3, 47_500, 2_500, 4),
    Setting("the same and runs of 6", FIFTY_SIX, RUNS_OF_6, 47_500, 2_500, 4),
    Setting("  as its experiment has it", FIFTY_SIX, RUNS_OF_6, 4_750, 250, 3),
    Setting("ResNet-20, runs of 1", TWENTY, {**BLOCKS, "longest": 1}, 47_500, 2_500, 4),
    Setting("ResNet-20, runs of 1 or 2", TWENTY, BLOCKS, 47_500, 2_500, 4),
    Setting("  as its experiment has it", TWENTY, BLOCKS, 9_500, 500, 2),
)


# The experiment, and its 64 students


def experiment(
    library: str, network: Any, parts: dict[str, Any], epochs: int = 1, **data: Any
) -> Experiment:
    """Neighbourhoods, an assembly of them, and its architecture distilled end to end."""
    training = {"epochs": epochs, "batch_size": 64, "lr": 0.02}
    return load_experiment(
        {
            "name": "architectures",
            "data": {"source": "digits", "validation": 0.1, **data},
            "stages": {
                "teacher": {
                    "network": network,
                    "objective": {"cross_entropy": {}},
                    "training": training,
                },
                "parts": {
                    "do": "neighbourhoods",
                    "teacher": "teacher",
                    "training": training,
                    **parts,
                },
                # One batch is about the same share of these images as 20 batches are of CIFAR-10.
                "assembled": {"do": "assemble", "neighbourhoods": "parts", "recalibrate": 1},
                "student": {
                    "start": "assembled",
                    "anew": True,
                    "teachers": ["teacher"],
                    "objective": {"soft_targets": {}},
                    "training": training,
                },
            },
            "library": library,
        }
    )


def windows(whole: float, count: int = WINDOWS) -> Iterator[tuple[float, float]]:
    """The minimum and maximum number of parameters of each group of students."""
    step = (LARGEST - SMALLEST) / count
    for i in range(count):
        yield whole * (SMALLEST + i * step) + 1, whole * (SMALLEST + (i + 1) * step)


def sixty_four(base: Experiment, parameters: float, count: int) -> Iterator[Stage]:
    """The student of each of ``count`` windows and rank; its first parent is the assembly."""
    for least, most in windows(parameters, count):
        for rank in range(RANKS):
            stages = copy.deepcopy(dict(base.stages))
            stages["assembled"] |= {
                "rank": rank,
                "budgets": {"parameters": {"min": least, "max": most}},
            }
            yield replace(base, stages=stages).stage_graph().student


# Measured


@dataclass(frozen=True)
class Measured:
    """Seconds of each part of both ways, with the architectures and accuracies."""

    distilled: float
    assembled: float
    end_to_end: float
    architectures: list[Architecture]
    accuracies: tuple[float, float]

    @property
    def ratio(self) -> float:
        return self.end_to_end / (self.distilled + self.assembled)


def measure(distilled: int, epochs: int, count: int, **data: Any) -> Measured:
    """Run both ways in a new library, with ``count`` windows of students."""
    with tempfile.TemporaryDirectory() as folder:
        base = experiment(folder, "resnet56", RUNS_OF_3, epochs, resize=16, **data)
        library, recipe = Library(folder), base.stage_graph()
        exhaust(build_stage(recipe.expanded_stages["teacher"].stage, library))
        teacher = library.record(recipe.expanded_stages["teacher"].stage.key)
        assert teacher is not None
        parts = seconds(build_batch(recipe.expanded_stages["parts"].teaching_stages, library))
        students = list(sixty_four(base, teacher.figures["parameters"], count))
        assembled = sum(seconds(build_stage(student.parents[0], library)) for student in students)
        some = students[:: len(students) // distilled]
        end_to_end = sum(seconds(build_stage(student, library)) for student in some)
        records = [library.record(student.parents[0].key) for student in students]
        found = [record for record in records if record is not None]
        ends = [library.open_artifact(student.key).record for student in some]
    pieces = [record.facts["assembly"]["pieces"] for record in found]
    accuracies = [statistics.fmean(r.figures["val_accuracy"] for r in rs) for rs in (found, ends)]
    return Measured(
        distilled=parts,
        assembled=assembled,
        end_to_end=end_to_end * len(students) / len(some),
        architectures=[tuple(map(BlockReplacement.parse, each)) for each in pieces],
        accuracies=(accuracies[0], accuracies[1]),
    )


def seconds(making: Iterator[object]) -> float:
    started = time.perf_counter()
    exhaust(making)
    return time.perf_counter() - started


def exhaust(making: Iterator[object]) -> None:
    for _ in making:
        pass


# Counted


class Counted:
    """Image-FLOPs of both ways at full size."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._network: Network = NetworkSpec.parse(setting.network).build(CIFAR, 10)
        self._at = cut_positions(self._network, CIFAR)
        inputs = [CIFAR, *(self._at[place] for place in sorted(self._at))]
        blocks = self._network.blocks.values()
        self._blocks = [compute_costs(b, s).flops for b, s in zip(blocks, inputs, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            base = experiment(folder, setting.network, setting.parts, resize=32)
            made = base.stage_graph().expanded_stages["parts"].teaching_stages
        works = [stage.operation for stage in made]
        self.pieces = [w.replacement for w in works if isinstance(w, DistilNeighbourhood)]
        self._costs = {piece.label: self._cost(piece) for piece in self.pieces}

    def _cost(self, piece: BlockReplacement) -> dict[str, float]:
        return compute_costs(piece.build(self._network, self._at), self._at[piece.start]).plain()

    def drawn(self) -> list[Architecture]:
        """The planner's choice for random scores."""
        dice, last = np.random.default_rng(0), max(self._at)
        edges = [
            Edge(p.start, p.stop, p.label, float(score), self._costs[p.label])
            for p, score in zip(self.pieces, dice.uniform(size=len(self.pieces)), strict=True)
        ]
        found: list[Architecture] = []
        for least, most in windows(compute_costs(self._network, CIFAR).parameters):
            budget = {"parameters": Budget(most, least)}
            plans = assemblies(edges, 1, last, budget, count=RANKS)
            found += [tuple(self.pieces[i] for i in plan.edges) for plan in plans]
        return found

    def distilling(self) -> float:
        """All passes over the candidates, and their scores."""
        setting, teacher = self._setting, sum(self._blocks)
        passes = -(-len(self.pieces) // MAX_BATCH_SIZE)
        taught = sum(self._flops(p) * (1 if p.block.name == "kept" else 3) for p in self.pieces)
        scored = sum(self._flops(p) + sum(self._blocks[p.stop :]) for p in self.pieces)
        learning = setting.epochs * setting.images * (passes * teacher + taught)
        return learning + setting.held_out * (passes * teacher + scored)

    def assembling(self, architectures: Sequence[Architecture]) -> float:
        """Batch-norm statistics and evaluation of each."""
        seen = min(20 * 256, self._setting.images) + self._setting.held_out
        return seen * sum(map(self._student, architectures))

    def end_to_end(self, architectures: Sequence[Architecture], kept: bool) -> float:
        """Each distilled alone; the teacher's outputs are ``kept``, or it runs in every step."""
        setting, teacher = self._setting, sum(self._blocks)
        seen = setting.epochs * (3 * setting.images + setting.held_out)
        looks = 1 if kept else setting.epochs * len(architectures)
        return seen * sum(map(self._student, architectures)) + looks * setting.images * teacher

    def _flops(self, piece: BlockReplacement) -> float:
        return self._costs[piece.label]["flops"]

    def _student(self, architecture: Architecture) -> float:
        return self._blocks[0] + sum(map(self._flops, architecture)) + self._blocks[-1]


def row(setting: Setting, chosen: list[Architecture]) -> float:
    """Print a row of the table; returns the ratio with cached teacher outputs."""
    counted = Counted(setting)
    chosen = chosen or counted.drawn()
    library = counted.distilling(), counted.assembling(chosen)
    alone, run = (counted.end_to_end(chosen, kept) for kept in (True, False))
    ratio = alone / sum(library)
    print(
        f"{setting.name:27}{len(counted.pieces):6}{len(set(chosen)):6}{setting.images:8,}"
        f"{setting.epochs:7}{library[0] / 1e15:8.2f}{library[1] / 1e15:10.2f}{alone / 1e15:11.2f}"
        f"{ratio:8.2f}{run / sum(library):9.2f}",
        flush=True,
    )
    return ratio


def main() -> int:
    """Measure, then count, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distilled", type=int, default=8, help="how many end to end")
    # Many epochs, because the fixed cost of an assembly does not shrink with the images.
    parser.add_argument("--epochs", type=int, default=8, help="of the measured run")
    parser.add_argument("--windows", type=int, default=WINDOWS, help=f"of {RANKS} students each")
    parser.add_argument("--images", type=int, help="of the digits, in the measured run; else all")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="that are counted")
    args = arguments(parser, distilled=1, epochs=1, windows=1, images=100, settings=1)
    torch.set_num_threads(1)
    few: dict[str, Any] = {} if args.images is None else {"limit": args.images}
    found = measure(args.distilled, args.epochs, args.windows, **few)
    different = len(set(found.architectures))
    print(f"measured: {different} architectures of a ResNet-56, {args.distilled} end to end")
    print(f"{'':34}{'seconds':>9}{'mean accuracy':>15}")
    print(f"{'one pass for all neighbourhoods':34}{found.distilled:9.1f}")
    print(f"{'64 assemblies':34}{found.assembled:9.1f}{found.accuracies[0]:15.3f}")
    print(f"{'64 distillations end to end':34}{found.end_to_end:9.1f}{found.accuracies[1]:15.3f}")
    print(f"measured ratio={found.ratio:.2f}\n")
    print(f"counted, 10^15 image-FLOPs{'neighbourhoods':>33}{'assemble':>10}{'end to end':>11}")
    head = f"{'parts':>6}{'64':>6}{'images':>8}{'epochs':>7}{'':8}{'':10}{'':11}"
    print(f"{'':27}{head}{'ratio':>8}{'run':>9}")
    ratios = [
        row(setting, found.architectures if i == 0 else [])
        for i, setting in enumerate(SETTINGS[: args.settings])
    ]
    ratio = min(found.ratio, ratios[0])
    every = different == args.windows * RANKS
    return outcome("architectures", ratio, TARGET, args, well=every)


if __name__ == "__main__":
    sys.exit(main())
