"""A few gradient steps on synthetic examples, and the gradient through all of them.

Sucholutsky and Schonlau 2021, "Soft-label dataset distillation and text dataset distillation",
after Wang, Zhu, Torralba and Efros 2018, "Dataset distillation". From weights theta_0, for
T = steps x passes,

    theta_i = theta_{i-1} - softplus(r_i) * d/dtheta mean_m -sum_c y[m, c] log softmax_c(f(x_m))
    L = mean_b cross entropy(f(real_b; theta_T), class_b)

and dL/d{x, y, r} goes back one step at a time (their algorithm 1). Only theta_{i-1} of step i is
stored; the step runs again from it. So memory grows by one set of weights per step.
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
from stillhouse.spaces.modules.text_layers import without_fused_lstm

Weights = dict[str, Tensor]
StepInputs = tuple[Tensor, Tensor, Tensor]
"""A step's images, labels and raw rate."""
StepVjp = Callable[[Weights], tuple[Weights, Tensor, Tensor, Tensor]]
"""From the gradient by the weights after a step to the gradients by its weights and inputs."""

NUM_KEPT_GRAPHS = 4
"""Number of last steps whose graph is kept; earlier steps run again."""
CHUNK_SIZE = 256
"""Real examples at once: larger chunks exceed a processor's cache and need more memory."""


class Examples(NamedTuple):
    """The learnt tensors, or their gradients; S steps of M examples, repeated E times."""

    images: Tensor
    """[S, M, *shape], after the data set's normalisation."""
    labels: Tensor
    """[S, M, classes], one weight per class; a distribution after a softmax only."""
    rates: Tensor
    """[S * E]; their softplus gives the step sizes, pass after pass."""


class UnrolledSteps:
    """The steps for networks of one architecture.

    Args:
        network: the architecture; it runs in eval mode, with LSTMs unfused.
        mean, std: of the data set, one value per channel.
        softmax: whether labels pass through a softmax.
        num_kept_graphs: see :data:`NUM_KEPT_GRAPHS`; it changes memory and time, not results.

    Raises:
        ConfigError: the network has batch norm.
    """

    def __init__(
        self,
        network: Network,
        mean: Tensor,
        std: Tensor,
        *,
        softmax: bool,
        num_kept_graphs: int = NUM_KEPT_GRAPHS,
    ) -> None:
        require_no_batch_norm(network)
        self._network = network.eval()
        self._buffers = dict(network.named_buffers())
        self._mean, self._std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        self._softmax, self._num_kept_graphs = softmax, num_kept_graphs

    def gradient(
        self, weights: Weights, examples: Examples, real: Tensor, targets: Tensor
    ) -> tuple[Tensor, Examples]:
        """The loss on real examples after the steps, and its gradient.

        Args:
            weights: initial weights of the network.
            real: [B, *shape], images of the data set in 0..1.
            targets: [B] int64.
        """
        weights_history: list[Weights] = [weights]
        vjps: list[StepVjp] = []
        count = len(examples.rates)
        for i in range(count):
            inputs = self._step_inputs(examples, i)
            if i < count - self._num_kept_graphs:
                weights_history.append(self.step(weights_history[-1], *inputs))
            else:
                after, step_vjp = self._step_with_vjp(weights_history[-1], inputs)
                weights_history.append(after)
                vjps.append(step_vjp)
        adjoint, loss = self._real_loss_gradient(weights_history[-1], real, targets)
        zeros = Examples(*map(torch.zeros_like, examples))
        images, labels = list(zeros.images), list(zeros.labels)
        rates = list(zeros.rates)
        for i in reversed(range(count)):
            inputs = self._step_inputs(examples, i)
            step_vjp = vjps.pop() if vjps else self._step_with_vjp(weights_history[i], inputs)[1]
            adjoint, image, label, rate = step_vjp(adjoint)
            slot = i % len(images)
            images[slot], labels[slot] = images[slot] + image, labels[slot] + label
            rates[i] = rate
        return loss, Examples(*map(torch.stack, (images, labels, rates)))

    def gradients(
        self, weights: Weights, examples: Examples, real: Tensor, targets: Tensor
    ) -> tuple[Tensor, Examples]:
        """The mean of :meth:`gradient` over several networks, whose ``weights`` are stacked."""
        batched = vmap(self.gradient, in_dims=(0, None, None, None))
        losses, stacked_gradients = batched(weights, examples, real, targets)
        return losses.mean(), Examples(*(part.mean(dim=0) for part in stacked_gradients))

    def step(self, weights: Weights, images: Tensor, labels: Tensor, rate: Tensor) -> Weights:
        """One step on images [M, *shape] and labels [M, classes]; ``rate`` [] precedes softplus."""
        gradient = grad(self._step_loss)(weights, images, labels)
        size = F.softplus(rate)
        return {name: weight - size * gradient[name] for name, weight in weights.items()}

    def _step_with_vjp(self, weights: Weights, inputs: StepInputs) -> tuple[Weights, StepVjp]:
        """One step, and its vector-Jacobian product."""
        result: Any = vjp(self.step, weights, *inputs)
        after, vjp_of_step = result
        return after, vjp_of_step

    def _step_inputs(self, examples: Examples, i: int) -> StepInputs:
        slot = i % len(examples.images)
        return examples.images[slot], examples.labels[slot], examples.rates[i]

    def _step_loss(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        logits = self._logits(weights, images * self._std + self._mean)
        return F.cross_entropy(logits, labels.softmax(dim=-1) if self._softmax else labels)

    def _real_loss_gradient(
        self, weights: Weights, real: Tensor, targets: Tensor
    ) -> tuple[Weights, Tensor]:
        """The gradient of the mean cross entropy over a real batch, and its value."""

        def chunk_loss(weights: Weights, some: Tensor, classes: Tensor) -> Tensor:
            total = F.cross_entropy(self._logits(weights, some), classes, reduction="sum")
            return total / len(real)

        chunks = [
            grad_and_value(chunk_loss)(weights, chunk, classes)
            for chunk, classes in zip(
                torch.split(real, CHUNK_SIZE), torch.split(targets, CHUNK_SIZE), strict=True
            )
        ]
        gradient = {name: torch.stack([d[name] for d, _ in chunks]).sum(dim=0) for name in weights}
        return gradient, torch.stack([loss for _, loss in chunks]).sum()

    def _logits(self, weights: Weights, images: Tensor) -> Tensor:
        state = (weights, self._buffers)
        with without_fused_lstm(self._network):
            logits: Tensor = functional_call(self._network, state, (images, ())).logits
        return logits


def copy_weights(network: Network) -> Weights:
    """Copies of a network's weights."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def stack_weights(network_factory: Callable[[], Network], count: int) -> Weights:
    """The weights of several networks, [count, ...] each."""
    state: tuple[Weights, Any] = stack_module_state([network_factory() for _ in range(count)])
    return {name: weight.detach() for name, weight in state[0].items()}


def require_no_batch_norm(network: Network) -> None:
    """Check that a network has no running statistics.

    Raises:
        ConfigError: it has batch norm.
    """
    for name, module in network.named_modules():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            message = (
                f"has batch norm ({name}), whose running statistics a few steps on synthetic "
                "examples cannot give; name a network without, such as lenet5"
            )
            raise ConfigError([Problem("network", message)])
