"""Learner: a student, its objective and its optimiser, taking one step after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Progress
from stillhouse.methods.core.objective.objective import ObjectiveModule
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.methods.core.runtime.precision import autocast
from stillhouse.methods.core.training.ema import ExponentialMovingAverage
from stillhouse.methods.core.training.teachers import Teachers
from stillhouse.spaces.modules.network import Network, Output


class Learner:
    """Everything of a training run that moves, and the step that moves it.

    The student lies on ``device``, channels last; what the objective trains of its own learns
    along. No step makes the host wait for the device.
    """

    def __init__(
        self,
        student: Network,
        teachers: Teachers,
        objective: ObjectiveModule,
        training: Training,
        dtype: torch.dtype,
        device: torch.device,
        communicator: Communicator = SINGLE_PROCESS,
    ) -> None:
        self._communicator = communicator
        self._student, self._teachers = student, teachers
        self.objective = objective.to(device).to(memory_format=torch.channels_last)
        self._training, self._dtype, self._device = training, dtype, device
        self._taps = objective.student_taps()
        communicator.broadcast_state(student, objective)
        self._student_parameters = [p for p in student.parameters() if p.requires_grad]
        self._objective_parameters = [p for p in objective.parameters() if p.requires_grad]
        self._parameters = [*self._student_parameters, *self._objective_parameters]
        self._optimizer = build_optimizer(self._parameters, training)
        self._ema = (
            None if training.ema is None else ExponentialMovingAverage(student, training.ema)
        )

    @property
    def result(self) -> Network:
        """What the run is about: the student, or the average of its weights."""
        return self._student if self._ema is None else self._ema.network

    def train(self) -> None:
        """Make ready for steps: dropout and batch statistics on."""
        self._student.train()
        self.objective.train()

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Learn from one batch; the losses before the step, on the device.

        Returns:
            ``loss``, the weighted sum, and each method's own under its name. Empty where no
            method is active, and then nothing is learnt.
        """
        teacher_outputs = []
        if self.objective.needs_teachers(progress):
            teacher_outputs = self._teachers.outputs(
                batch, progress.epoch, self.objective.teacher_taps
            )
        return self.backward_step(self.forward(batch), teacher_outputs, batch, progress)

    def forward(self, batch: Batch, taps: frozenset[str] = frozenset()) -> Output:
        """What the student says of a batch; ``taps`` are blocks that others want to see."""
        with autocast(self._dtype, self._device):
            return self._communicator.forward_batch(self._student, batch.images, self._taps | taps)

    def backward_step(
        self,
        student_output: Output,
        teacher_outputs: Sequence[Output],
        batch: Batch,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """One step from what the student and its teachers said; returns as :meth:`step`."""
        losses: dict[str, Tensor]
        total, losses = self.objective(student_output, teacher_outputs, batch, progress)
        if losses:
            self._optimizer_step(total, progress)
            losses["loss"] = total.detach()
        return losses

    def _optimizer_step(self, loss: Tensor, progress: Progress) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._communicator.all_reduce_gradients(
            self._student_parameters, self._objective_parameters
        )
        if self._training.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._training.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._training.lr_at(progress.position)
        self._optimizer.step()
        if self._ema is not None:
            self._ema.update(progress.steps_done)

    def state(self) -> dict[str, Tensor]:
        """All that a later :meth:`load` needs to go on from here, bit for bit."""
        tensors = {f"student.{k}": v for k, v in self._student.state_dict().items()}
        tensors |= {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        if self._ema is not None:
            tensors |= {f"average.{k}": v for k, v in self._ema.network.state_dict().items()}
        optimizer_tensors = optimizer_state(self._optimizer, self._parameters)
        return tensors | {f"optimizer.{name}": value for name, value in optimizer_tensors}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state` gave, of a learner built the same way."""
        self._student.load_state_dict(strip_prefix("student", tensors))
        self.objective.load_state_dict(strip_prefix("objective", tensors))
        if self._ema is not None:
            self._ema.network.load_state_dict(strip_prefix("average", tensors))
        load_optimizer_state(self._optimizer, self._parameters, strip_prefix("optimizer", tensors))


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it."""
    prefix_dot = f"{prefix}."
    return {k.removeprefix(prefix_dot): v for k, v in tensors.items() if k.startswith(prefix_dot)}


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


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> Iterator[tuple[str, Tensor]]:
    """What an optimiser remembers, ``<number of the parameter>.<name>`` each."""
    for i, parameter in enumerate(parameters):
        for name, value in optimizer.state[parameter].items():
            yield f"{i}.{name}", value


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Have an optimiser remember what :func:`optimizer_state` gave."""
    for i, parameter in enumerate(parameters):
        for name, value in strip_prefix(str(i), tensors).items():
            # Fused kernels walk memory in order: a moment must lie there as its weights do.
            reference = torch.empty_like(parameter) if value.shape == parameter.shape else value
            buffer = torch.empty_like(reference, dtype=value.dtype, device=parameter.device)
            optimizer.state[parameter][name] = buffer.copy_(value)
