"""Memory of the gradient through many steps: steps that run again compared with a kept graph.

LeNet on ten synthetic 28x28 images a step and a real batch of 256, one core; every figure is the
peak memory of a separate process, minus its peak before the first step.

The ratio is the memory of the whole graph divided by that with steps run again, at the largest
number of steps.

    python benchmarks/distilling_memory.py [--steps 4 16 64]

Exit status 1 if the ratio is below its target.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
from _outcome import arguments, outcome

from stillhouse.methods.core.synthesis.distilling.unroll import (
    NUM_KEPT_GRAPHS,
    Examples,
    UnrolledSteps,
    copy_weights,
)
from stillhouse.spaces.network_spec import NetworkSpec

TARGET = 2.0


def gradient(steps: int, kept: int) -> tuple[float, float]:
    """MiB and seconds of one gradient."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = NetworkSpec.parse("lenet5").build((1, 28, 28), 10)
    unroll = UnrolledSteps(
        network, torch.zeros(1), torch.ones(1), softmax=False, num_kept_graphs=kept
    )
    images = torch.randn(steps, 10, 1, 28, 28)
    examples = Examples(images, torch.eye(10).expand(steps, 10, 10), torch.full((steps,), -4.0))
    real, truth = torch.rand(256, 1, 28, 28), torch.arange(256) % 10
    first = Examples(*(part[:1] for part in examples))
    unroll.gradient(copy_weights(network), first, real, truth)
    before, began = peak_mib(), time.perf_counter()
    unroll.gradient(copy_weights(network), examples, real, truth)
    return peak_mib() - before, time.perf_counter() - began


def peak_mib() -> float:
    """Peak resident MiB of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_subprocess(steps: int, kept: int) -> tuple[float, float]:
    """:func:`gradient` in a separate process."""
    command = [sys.executable, __file__, "--one", str(steps), str(kept)]
    fields = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(fields[0]), float(fields[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = arguments(parser, steps=[4])
    if asked.one:
        print(*gradient(*asked.one))
        return 0
    print(f"{'steps':>6} {'run again':>18} {'whole graph':>18}")
    ratio = 0.0
    for steps in sorted(asked.steps):
        (some, again), (whole, once) = (
            in_subprocess(steps, NUM_KEPT_GRAPHS),
            in_subprocess(steps, steps),
        )
        print(f"{steps:6d} {some:8.0f} MiB {again:5.2f} s {whole:8.0f} MiB {once:5.2f} s")
        ratio = whole / max(some, 1.0)
    return outcome("distilling_memory", ratio, TARGET, asked)


if __name__ == "__main__":
    sys.exit(main())
