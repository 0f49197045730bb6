"""One distillation step: a plain PyTorch loop compared with this product.

ResNet-20 learns from ResNet-56 on random 32x32 images, batch 128, one core (or a CUDA device). The
plain way is a straightforward PyTorch loop; the product's rows call the same ``Learner.step`` as
``train``. All ways take turns in one run, so other load on the machine affects all of them. The
batches are in memory, in the layout of each way.

In rows with ``kept`` the teacher's outputs are cached, as they are if views repeat (no
augmentation, or a fixed number of views). Filling the cache is not timed. In rows with ``run`` the
teacher runs in every step, as it must if every epoch has new views. The ratios in the last two
lines are those of the ``kept`` rows.

    python benchmarks/training_step.py [--device cuda] [--rounds 5] [--steps 4]

Exit status 1 if a ratio falls short of its target.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from _outcome import arguments, outcome

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.runtime.precision import autocast_dtype
from stillhouse.methods.core.training.learner import Learner
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.networks import resolve

SHAPE, CLASSES, SIZE = (3, 32, 32), 10, 128
TARGETS = {"training_step_float32": 1.5, "training_step": 2.5}
OBJECTIVE = {"cross_entropy": {"weight": 0.1}, "soft_targets": {"weight": 0.9}}

Step = Callable[[int], object]
"""Takes one training step on the batch of a number."""


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    name: str
    format: str
    layout: str
    teacher: str
    step: Step


class RandomImages:
    """The part of a data set that a step needs: a few batches of noise, the same every epoch."""

    def __init__(
        self, device: torch.device, repeats: bool, size: int = SIZE, batches: int = 4
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self._size, count = size, batches * size
        images = torch.rand(count, *SHAPE, generator=generator).to(device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (count,), generator=generator).to(device)
        self.indices = torch.arange(count, device=device)
        self.has_repeating_views = repeats
        self.fingerprint = f"noise {repeats}"

    def view_of_epoch(self, epoch: int) -> int:
        return 0

    def batch(self, number: int) -> Batch:
        start = number * self._size % len(self.labels)
        rows = slice(start, start + self._size)
        return Batch(self.images[rows], self.labels[rows], self.indices[rows])

    def view_batches(self, view: int, *, batch_size: int, device: object) -> Iterator[Batch]:
        for start in range(0, len(self.labels), batch_size):
            rows = slice(start, start + batch_size)
            yield Batch(self.images[rows], self.labels[rows], self.indices[rows])

    @property
    def as_data(self) -> Dataset:
        """This object, typed as a data set."""
        return cast(Dataset, self)


def network(name: str) -> Network:
    torch.manual_seed(0)
    return resolve(name)[1].build(SHAPE, CLASSES)


def plain(device: torch.device, size: int) -> Way:
    """Float32, channels first, an unfolded teacher that runs in every step."""
    student = network("resnet20").to(device).train()
    teacher = network("resnet56").to(device).eval()
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    data = RandomImages(device, repeats=False, size=size)
    batches = [Batch(b.images.contiguous(), b.labels, b.indices) for b in map(data.batch, range(4))]

    def step(number: int) -> None:
        images, labels, _ = batches[number % len(batches)]
        with torch.no_grad():
            target = (teacher(images, ()).logits / 4).softmax(dim=1)
        logits = student(images, ()).logits
        imitation = F.kl_div((logits / 4).log_softmax(dim=1), target, reduction="batchmean")
        loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * 16 * imitation
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return Way("plain PyTorch", "float32", "channels first", "run", step)


def product(device: torch.device, size: int, precision: str, kept: bool) -> Way:
    """The step of ``train`` with these settings."""
    data = RandomImages(device, repeats=kept, size=size)
    training = Training.parse({"schedule": "constant", "precision": precision})
    dtype = autocast_dtype(training.precision, device, SHAPE)
    student = network("resnet20").to(device).to(memory_format=torch.channels_last).eval()
    sample = data.images[:8]
    teachers = Teachers([FrozenTeacher(network("resnet56"))], data.as_data, sample, dtype)
    pair = BuildContext(student, teachers.originals, CLASSES, len(data.labels), sample)
    objective = Objective.parse(OBJECTIVE).build(pair)
    learner = Learner(student, teachers, objective, training, dtype, device)
    learner.train()

    def step(number: int) -> None:
        learner.step(data.batch(number), Progress(0, 60, 0, 4, 0))

    name = f"stillhouse, precision {precision}"
    format = str(dtype).removeprefix("torch.")
    return Way(name, format, "channels last", "kept" if kept else "run, folded", step)


def seconds(way: Way, steps: int, device: torch.device) -> float:
    """Mean seconds of a step over ``steps`` steps."""
    started = time.perf_counter()
    for number in range(steps):
        way.step(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / steps


def measure(ways: list[Way], rounds: int, steps: int, device: torch.device) -> list[float]:
    """Median seconds of a step of each way; each round starts with another way."""
    for way in ways:
        seconds(way, 2, device)
    taken: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for offset in range(len(ways)):
            which = (turn + offset) % len(ways)
            taken[which].append(seconds(ways[which], steps, device))
    return [statistics.median(times) for times in taken]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=SIZE)
    options = arguments(parser, rounds=1, steps=1, batch_size=8)
    torch.set_num_threads(1)
    device, size = torch.device(options.device), options.batch_size
    ways = [
        plain(device, size),
        product(device, size, "float32", kept=False),
        product(device, size, "float32", kept=True),
        product(device, size, "auto", kept=False),
        product(device, size, "auto", kept=True),
    ]
    medians = measure(ways, options.rounds, options.steps, device)
    head = f"{'way':32}{'format':10}{'layout':16}{'teacher':13}{'ms/step':>9}{'images/s':>10}"
    print(f"{head}{'x plain':>9}")
    for way, median in zip(ways, medians, strict=True):
        print(
            f"{way.name:32}{way.format:10}{way.layout:16}{way.teacher:13}"
            f"{median * 1e3:9.1f}{size / median:10.0f}{medians[0] / median:9.2f}"
        )
    ratios = (medians[0] / medians[2], medians[0] / medians[4])
    return max(
        outcome(name, ratio, target, options)
        for (name, target), ratio in zip(TARGETS.items(), ratios, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
