"""The cost of a step with each method, compared with a step with soft targets.

ResNet-20 learns from ResNet-56 on random 32x32 images, batch 128, one core (or a CUDA device),
from labels and one method at its declared settings. The teacher runs in every step, as it must
if every epoch has new views. All methods take turns in one run. A method that reads only logits may
cost 15 % more than soft targets. One that taps features may cost 40 % more, because it keeps maps
and trains modules to compare them.

The ratio is the lowest of allowed cost divided by measured cost: 1 or more meets the target.

    python benchmarks/methods_step.py [--device cuda] [--rounds 5] [--steps 3] [--only NAME ...]

Exit status 1 if a method costs more than allowed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import torch
from _outcome import arguments, outcome
from training_step import CLASSES, SHAPE, SIZE, RandomImages, Way, measure

from stillhouse.methods.core.config.requirements import HeadedTeachers
from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.runtime.precision import autocast_dtype
from stillhouse.methods.core.training.learner import Learner
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.modules.heads import maps, stage_ends, with_linear_heads
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec

RESPONSE, FEATURE = 1.15, 1.40
TARGET = 1.0
BASE = "soft_targets"


@dataclass(frozen=True)
class Row:
    """A method with its step and its allowed cost."""

    way: Way
    allowed: float
    own: int
    """Number of parameters that the method trains beside the student."""


def network(size: str, method: str) -> Network:
    """A network with the split classes or teacher heads that a method needs."""
    torch.manual_seed(0)
    needs_split = METHODS.load(method).needs_subclasses
    spec = NetworkSpec.parse(size).with_num_subclasses(
        5 if needs_split else METHODS.load(method).Config().num_subclasses()
    )
    built = spec.build(SHAPE, CLASSES)
    requirements = Objective.parse({method: {}}).requirements()
    if size == "resnet56" and any(isinstance(value, HeadedTeachers) for _, value in requirements):
        return with_linear_heads(built, SHAPE, CLASSES, stage_ends(maps(built, SHAPE)))
    return built


def row(name: str, device: torch.device, size: int) -> Row:
    """A step of labels and one method."""
    data = RandomImages(device, repeats=False, size=size)
    training = Training.parse({"schedule": "constant", "lr": 1e-3})
    dtype = autocast_dtype(training.precision, device, SHAPE)
    student = network("resnet20", name).to(device).to(memory_format=torch.channels_last).eval()
    sample = data.images[:8]
    teacher = FrozenTeacher(network("resnet56", name))
    teachers = Teachers([teacher], data.as_data, sample, dtype)
    pair = BuildContext(student, teachers.originals, CLASSES, len(data.labels), sample)
    terms = {"cross_entropy": {"weight": 0.5}, name: {"weight": 0.5}}
    objective = Objective.parse(terms).build(pair)
    learner = Learner(student, teachers, objective, training, dtype, device)
    learner.train()

    def step(number: int) -> None:
        learner.step(data.batch(number), Progress(0, 60, number, 1000, 0))

    tapped = bool(objective.student_taps() or objective.teacher_taps(0))
    format = str(dtype).removeprefix("torch.")
    way = Way(name, format, "channels last", "run, folded", step)
    own = sum(p.numel() for p in objective.parameters())
    return Row(way, FEATURE if tapped else RESPONSE, own)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None, help="names of methods")
    parser.add_argument("--batch-size", type=int, default=SIZE)
    options = arguments(parser, rounds=1, steps=1, only=["attention"], batch_size=8)
    torch.set_num_threads(1)
    device = torch.device(options.device)
    wanted = METHODS.names() if options.only is None else options.only
    rows = [row(name, device, options.batch_size) for name in (BASE, *sorted(set(wanted) - {BASE}))]
    medians = measure([each.way for each in rows], options.rounds, options.steps, device)
    print(f"{'method':24}{'ms/step':>9}{'x soft targets':>16}{'may cost':>10}{'own weights':>13}")
    worst = float("inf")
    for each, median in zip(rows, medians, strict=True):
        cost = median / medians[0]
        worst = min(worst, each.allowed / cost)
        over = "  beyond" if cost > each.allowed else ""
        line = f"{each.way.name:24}{median * 1e3:9.1f}{cost:16.2f}{each.allowed:10.2f}"
        print(f"{line}{each.own:13,}{over}")
    return outcome("methods_step", worst, TARGET, options)


if __name__ == "__main__":
    sys.exit(main())
