"""Exponential moving average (EMA) of a network in training (Polyak and Juditsky 1992)."""

from __future__ import annotations

import copy

import torch

from stillhouse.spaces.modules.network import Network


class ExponentialMovingAverage:
    """A copy of a network with averaged weights and statistics.

    Update n, counted from 0, sets ``average = d * average + (1 - d) * current`` with
    ``d = min(decay, (1 + n) / (10 + n))``, so the random start has little weight. The updates of
    torch's ``AveragedModel`` make the host wait for the device; these do not.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay
        pairs = list(
            zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        )
        self._float_pairs = [pair for pair in pairs if pair[0].is_floating_point()]
        self._integer_pairs = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self, num_updates: int) -> None:
        """Add the current weights; ``num_updates`` is the number of earlier updates."""
        decay = min(self._decay, (1 + num_updates) / (10 + num_updates))
        with torch.no_grad():
            average, current = map(list, zip(*self._float_pairs, strict=True))
            torch._foreach_lerp_(average, current, 1 - decay)
            for averaged, source in self._integer_pairs:
                averaged.copy_(source)
