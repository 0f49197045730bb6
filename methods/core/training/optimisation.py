"""Gradient steps: the optimiser of a training run, its step and its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.runtime.checkpointing import strip_prefix


class GradientDescent:
    """An optimiser over ``parameters``; ``clip`` is the largest norm of their gradient."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], clip: float | None
    ) -> None:
        self._optimizer, self._parameters, self._clip = optimizer, parameters, clip

    @classmethod
    def from_training(cls, parameters: list[nn.Parameter], training: Training) -> Self:
        """With the optimiser and the clipping that ``training`` names."""
        return cls(build_optimizer(parameters, training), parameters, training.clip)

    def minimise(self, loss: Tensor, lr: float, reduce: Callable[[], None] | None = None) -> None:
        """One step along the gradient of ``loss``; ``reduce`` runs before the gradient is used."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if reduce is not None:
            reduce()
        self.step(lr)

    def step(self, lr: float) -> None:
        """One step along the gradients that the parameters have."""
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """The optimizer state, as ``<number of the parameter>.<name>``."""
        return {
            f"{i}.{name}": value
            for i, parameter in enumerate(self._parameters)
            for name, value in self._optimizer.state[parameter].items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the optimizer state of :meth:`state`."""
        for i, parameter in enumerate(self._parameters):
            for name, value in strip_prefix(str(i), tensors).items():
                # Fused kernels walk memory in order: a buffer needs the layout of its parameter.
                reference = torch.empty_like(parameter) if value.shape == parameter.shape else value
                buffer = torch.empty_like(reference, dtype=value.dtype, device=parameter.device)
                self._optimizer.state[parameter][name] = buffer.copy_(value)


def build_optimizer(parameters: list[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """The optimiser that ``training`` asks for, over ``parameters``."""
    groups = _parameter_groups(parameters, training)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=training.lr, weight_decay=training.weight_decay, fused=True
        )
    sgd = torch.optim.SGD(
        groups,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        fused=True,
    )
    if training.momentum > 0:
        # The fused step cannot start some moments while others exist, as it must where a method
        # with weights of its own joins late. A moment of 0 is what a first step means.
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def _parameter_groups(
    parameters: Sequence[nn.Parameter], training: Training
) -> list[dict[str, Any]]:
    """One group of all; or two where norms and biases, which have one axis, keep their size."""
    if not training.decay_weights_only:
        return [{"params": list(parameters)}]
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
