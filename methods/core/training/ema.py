"""Average: exponential moving average of a network while it learns (Polyak and Juditsky 1992)."""

from __future__ import annotations

import copy

import torch

from stillhouse.spaces.modules.network import Network


class ExponentialMovingAverage:
    """A second network, whose weights and statistics follow the first one's slowly.

    After update number n, counted from 0: ``average = d * average + (1 - d) * now`` with
    ``d = min(decay, (1 + n) / (10 + n))``, so that the random start is soon forgotten. torch's
    own ``AveragedModel`` makes the host wait for the device in every update; this does not.
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
        """Take in the network as it is now; ``num_updates`` updates went before."""
        decay = min(self._decay, (1 + num_updates) / (10 + num_updates))
        with torch.no_grad():
            average, current = map(list, zip(*self._float_pairs, strict=True))
            torch._foreach_lerp_(average, current, 1 - decay)
            for averaged, source in self._integer_pairs:
                averaged.copy_(source)
