"""Sixteen neighbourhoods fed by one pass of the teacher, compared with sixteen distilled alone.

The teacher is a ResNet-56 on 32x32 images; each candidate is a depthwise separable unit in place of
three blocks, spread over the whole network. Both ways take the same steps over the same images on
one core and reach the same weights. Alone, each candidate runs the teacher up to its own end;
together, the teacher runs once. The measure is candidate-images a second.

``--clock processor`` counts the processor time of this process, for machines that others use too.

    python benchmarks/neighbourhoods.py [--candidates 16] [--steps 4] [--clock processor]

Exit status 1 if the speed-up by one pass is below the target.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from _outcome import arguments, outcome
from torch import nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset, open_data
from stillhouse.methods.core.training.neighbourhood import Neighbourhood, NeighbourhoodTraining
from stillhouse.search.assembly.network import BlockReplacement
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.modules.cuts import cut_positions
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.networks.resnet import ResNet

TARGET = 4.0
BATCH, BLOCKS, LENGTH = 64, 27, 3
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}


def candidates(teacher: Network, data: Dataset, count: int) -> list[Neighbourhood]:
    """Replacements for runs of three blocks, spread evenly over the teacher."""
    found, at = [], cut_positions(teacher, data.shape)
    for i in range(count):
        start = 1 + i * (BLOCKS - LENGTH) // max(1, count - 1)
        piece = BlockReplacement(start, start + LENGTH, BlockSpec.parse("depthwise"))
        torch.manual_seed(i)
        module = piece.build(teacher, at)
        same = nn.Identity()
        found.append(Neighbourhood(piece.start, piece.stop, module, same, same, same))
    return found


def seconds(teacher: Network, data: Dataset, some: list[Neighbourhood], clock: Clock) -> float:
    """Seconds of one epoch in which one pass teaches all of ``some``."""
    learning = NeighbourhoodTraining(
        teacher,
        some,
        data,
        Training(epochs=2, batch_size=BATCH, lr=0.02),
        inputs="data",
        seed=0,
        device=torch.device("cpu"),
    )
    learning.run_epoch()  # warm
    started = clock()
    learning.run_epoch()
    return clock() - started


def main() -> int:
    """Both ways in turn, three rounds; medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = arguments(parser, candidates=2, steps=1, rounds=1)
    clock = CLOCKS[args.clock]
    torch.set_num_threads(1)
    images = args.steps * BATCH
    data_settings = {"source": "digits", "resize": 32, "limit": images, "validation": 0.1}
    data = open_data(DataConfig.parse(data_settings))
    teacher = ResNet(depth=56).build(data.shape, data.classes)
    alone, together = [], []
    for _ in range(args.rounds):
        parts, others = (candidates(teacher, data, args.candidates) for _ in range(2))
        alone.append(sum(seconds(teacher, data, [part], clock) for part in parts))
        together.append(seconds(teacher, data, others, clock))
    same = all(
        torch.allclose(a, b, atol=1e-5)
        for one, other in zip(parts, others, strict=True)
        for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True)
    )
    work = args.candidates * data.facts.sizes["train"]
    print(f"{args.candidates} candidates, batches of {BATCH}, one core; same weights: {same}")
    print(f"{'':20} {'seconds':>9} {'candidate-images/s':>20}")
    for name, times in (("each alone", alone), ("one pass for all", together)):
        median = statistics.median(times)
        print(f"{name:20} {median:9.2f} {work / median:20.0f}")
    ratio = statistics.median(alone) / statistics.median(together)
    return outcome("neighbourhoods", ratio, TARGET, args, well=same)


if __name__ == "__main__":
    sys.exit(main())
