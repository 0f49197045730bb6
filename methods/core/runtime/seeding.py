"""Random numbers that depend on the progress of training only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SEED_LIMIT = 2**63
"""Seeds of users are below this. Torch takes 64 bits; offsets for repetitions, generations and
replicas use the rest."""


def derive_seed(*entropy: int) -> int:
    """A seed of 63 bits from ``entropy`` (integers from 0 up); similar entropies are unrelated."""
    # SeedSequence treats (1,) and (1, 0) alike; the length makes them differ.
    sequence = np.random.SeedSequence((len(entropy), *entropy))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def seeded_torch(device: torch.device, *entropy: int) -> Iterator[None]:
    """Seed torch's global generators from ``entropy``; restore their state at the end."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed takes 20 ms, also for devices that are not in use.
        torch.default_generator.manual_seed(derive_seed(*entropy))
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(derive_seed(*entropy))
        yield
