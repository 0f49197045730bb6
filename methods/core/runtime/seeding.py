"""Randomness that depends on where training stands, never on what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SEEDS = 2**63
"""Seeds that a user gives lie below this. Torch takes 64 bits, and what is added to a seed (for a
repetition, a generation, a copy of a teacher) stays within the rest."""


def seed_from(*words: int) -> int:
    """63 bits decided by ``words`` (whole numbers from 0 up); neighbours are unrelated."""
    # SeedSequence takes (1,) and (1, 0) for the same; the count tells them apart.
    sequence = np.random.SeedSequence((len(words), *words))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def seeded(device: torch.device, *words: int) -> Iterator[None]:
    """Torch's global generators start from ``words`` inside, and are as before after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed takes 20 ms for devices that are not even in use.
        torch.default_generator.manual_seed(seed_from(*words))
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed_from(*words))
        yield
