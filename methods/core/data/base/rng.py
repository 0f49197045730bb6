"""Random numbers that do not change between versions of NumPy."""

from __future__ import annotations

import numpy as np


def make_rng(*entropy: int) -> np.random.RandomState:
    """A random generator from ``entropy`` (integers from 0 up, of any size).

    NumPy has frozen the streams of ``RandomState``, so later versions give the same splits and
    views. Entropy is hashed: similar values give unrelated streams.
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))
