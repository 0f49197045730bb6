"""Randomness that depends on where training stands, never on what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SEED_LIMIT = 2**63
"""Seeds that a user gives lie below this. Torch takes 64 bits, and what is added to a seed (for a
repetition, a generation, a copy of a teacher) stays within the rest."""


def derive_seed(*entropy: int) -> int:
    """63 bits decided by ``entropy`` (whole numbers from 0 up); neighbours are unrelated."""
    # SeedSequence takes (1,) and (1, 0) for the same; the count tells them apart.
    sequence = np.random.SeedSequence((len(entropy), *entropy))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def seeded_torch(device: torch.device, *entropy: int) -> Iterator[None]:
    """Torch's global generators start from ``entropy`` inside, and are as before after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed takes 20 ms for devices that are not even in use.
        torch.default_generator.manual_seed(derive_seed(*entropy))
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(derive_seed(*entropy))
        yield
