"""Random choices that stay the same for ever."""

from __future__ import annotations

import numpy as np


def make_rng(*entropy: int) -> np.random.RandomState:
    """A generator decided by ``entropy`` (whole numbers from 0 up, of any size).

    ``RandomState`` because NumPy has frozen its streams: a split or a view drawn today is the
    one that any later version draws. The words are hashed, so neighbours are unrelated.
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))
