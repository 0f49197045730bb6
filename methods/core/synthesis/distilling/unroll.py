"""Unroll: a few gradient steps on synthetic examples, and the gradient through all of them.

Sucholutsky and Schonlau 2021, "Soft-label dataset distillation and text dataset distillation",
after Wang, Zhu, Torralba and Efros 2018, "Dataset distillation". From weights theta_0, for
T = steps x passes,

    theta_i = theta_{i-1} - softplus(r_i) * d/dtheta mean_m -sum_c y[m, c] log softmax_c(f(x_m))
    L = mean_b cross entropy(f(real_b; theta_T), class_b)

and dL/d{x, y, r} goes back one step at a time (their algorithm 1): step i is run again from
theta_{i-1}, which is all that is kept of it, so memory grows by one set of weights a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, stack_module_state, vjp, vmap
from torch.nn.modules.batchnorm import _NormBase

from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.modules.text_layers import unfused

Weights = dict[str, Tensor]
Told = tuple[Tensor, Tensor, Tensor]
"""A step's images, labels and raw rate."""
Back = Callable[[Weights], tuple[Weights, Tensor, Tensor, Tensor]]
"""From the gradient to the weights after a step to that before it, and to what it was told."""

KEPT = 4
"""Last steps of which the whole graph is kept rather than run again."""
CHUNK = 256
"""Real examples at once: larger batches leave a processor's cache, and take more memory."""


class Examples(NamedTuple):
    """What is learnt, or the gradient to it; S steps of M examples, gone through E times."""

    images: Tensor
    """[S, M, *shape], as a network sees them after the data set's normalisation."""
    labels: Tensor
    """[S, M, classes], one weight a class: no distribution unless put through a softmax."""
    rates: Tensor
    """[S * E]; softplus of them are the sizes of the steps, pass after pass."""


class Unroll:
    """Networks of one architecture that take the steps.

    Args:
        network: gives the architecture; run in eval mode, so without dropout, and LSTMs unfused.
        mean, std: of the data set, one value a channel.
        softmax: labels are put through a softmax.
        kept: see :data:`KEPT`; it changes memory and time, no figure.

    Raises:
        ConfigError: it has batch norm.
    """

    def __init__(
        self, network: Network, mean: Tensor, std: Tensor, *, softmax: bool, kept: int = KEPT
    ) -> None:
        require_no_statistics(network)
        self._network = network.eval()
        self._buffers = dict(network.named_buffers())
        self._mean, self._std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        self._softmax, self._kept = softmax, kept

    def gradient(
        self, weights: Weights, examples: Examples, real: Tensor, truth: Tensor
    ) -> tuple[Tensor, Examples]:
        """The loss on real examples after the steps, and its gradient.

        Args:
            weights: where the network starts.
            real: [B, *shape], as a data set gives them.
            truth: [B] int64.
        """
        trail: list[Weights] = [weights]
        graphs: list[Back] = []
        count = len(examples.rates)
        for i in range(count):
            told = self._told(examples, i)
            if i < count - self._kept:
                trail.append(self.step(trail[-1], *told))
            else:
                after, back = self._there_and_back(trail[-1], told)
                trail.append(after)
                graphs.append(back)
        adjoint, loss = self._loss(trail[-1], real, truth)
        found = Examples(*map(torch.zeros_like, examples))
        images, labels = list(found.images), list(found.labels)
        rates = list(found.rates)
        for i in reversed(range(count)):
            told = self._told(examples, i)
            back = graphs.pop() if graphs else self._there_and_back(trail[i], told)[1]
            adjoint, image, label, rate = back(adjoint)
            place = i % len(images)
            images[place], labels[place] = images[place] + image, labels[place] + label
            rates[i] = rate
        return loss, Examples(*map(torch.stack, (images, labels, rates)))

    def gradients(
        self, weights: Weights, examples: Examples, real: Tensor, truth: Tensor
    ) -> tuple[Tensor, Examples]:
        """The mean of :meth:`gradient` over several networks; ``weights`` of all are stacked."""
        over = vmap(self.gradient, in_dims=(0, None, None, None))
        losses, found = over(weights, examples, real, truth)
        return losses.mean(), Examples(*(part.mean(dim=0) for part in found))

    def step(self, weights: Weights, images: Tensor, labels: Tensor, rate: Tensor) -> Weights:
        """One step on a step's examples: images [M, *shape], soft labels [M, classes], and a rate
        [] before its softplus."""
        down = grad(self._distance)(weights, images, labels)
        size = F.softplus(rate)
        return {name: weight - size * down[name] for name, weight in weights.items()}

    def _there_and_back(self, weights: Weights, told: Told) -> tuple[Weights, Back]:
        """One step, and what takes a gradient back through it."""
        found: Any = vjp(self.step, weights, *told)
        after, back = found
        return after, back

    def _told(self, examples: Examples, i: int) -> Told:
        place = i % len(examples.images)
        return examples.images[place], examples.labels[place], examples.rates[i]

    def _distance(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        logits = self._logits(weights, images * self._std + self._mean)
        return F.cross_entropy(logits, labels.softmax(dim=-1) if self._softmax else labels)

    def _loss(self, weights: Weights, real: Tensor, truth: Tensor) -> tuple[Weights, Tensor]:
        """The gradient to the weights of the mean cross entropy over a real batch, and that."""

        def part(weights: Weights, some: Tensor, classes: Tensor) -> Tensor:
            total = F.cross_entropy(self._logits(weights, some), classes, reduction="sum")
            return total / len(real)

        found = [
            grad_and_value(part)(weights, some, classes)
            for some, classes in zip(
                torch.split(real, CHUNK), torch.split(truth, CHUNK), strict=True
            )
        ]
        down = {name: torch.stack([d[name] for d, _ in found]).sum(dim=0) for name in weights}
        return down, torch.stack([loss for _, loss in found]).sum()

    def _logits(self, weights: Weights, images: Tensor) -> Tensor:
        state = (weights, self._buffers)
        with unfused(self._network):
            logits: Tensor = functional_call(self._network, state, (images, ())).logits
        return logits


def weights_of(network: Network) -> Weights:
    """A network's weights, apart from it."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def stacked(fresh: Callable[[], Network], count: int) -> Weights:
    """The weights of several networks, [count, ...] each."""
    found: tuple[Weights, Any] = stack_module_state([fresh() for _ in range(count)])
    return {name: weight.detach() for name, weight in found[0].items()}


def require_no_statistics(network: Network) -> None:
    """Refuse a network whose answers hang on running statistics.

    Raises:
        ConfigError: there is batch norm in it.
    """
    for name, module in network.named_modules():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            message = (
                f"has batch norm ({name}), whose running statistics a few steps on synthetic "
                "examples cannot give; name a network without, such as lenet5"
            )
            raise ConfigError([Problem("network", message)])
