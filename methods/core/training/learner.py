"""A student with its objective and its optimiser, and its training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Progress
from stillhouse.methods.core.objective.objective import ObjectiveModule
from stillhouse.methods.core.runtime.checkpointing import add_prefix, strip_prefix
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.methods.core.runtime.precision import autocast
from stillhouse.methods.core.training.ema import ExponentialMovingAverage
from stillhouse.methods.core.training.optimisation import GradientDescent
from stillhouse.methods.core.training.teachers import Teachers
from stillhouse.spaces.modules.network import Network, Output


class Learner:
    """A student in training, with the layers that its objective trains.

    The student must be on ``device``, channels last. No step makes the host wait for the device.
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
        parameters = [*self._student_parameters, *self._objective_parameters]
        self._descent = GradientDescent.from_training(parameters, training)
        self._ema = (
            None if training.ema is None else ExponentialMovingAverage(student, training.ema)
        )

    @property
    def results(self) -> tuple[Network, ...]:
        """The trained network: the student, or the average of its weights."""
        return (self._student if self._ema is None else self._ema.network,)

    def train(self) -> None:
        """Switch to training mode: dropout and batch statistics are on."""
        self._student.train()
        self.objective.train()

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Train on one batch; the losses before the step, on the device.

        Returns:
            ``loss``, the weighted sum, and the loss of each method by name. Empty if no method is
            active; the weights then do not change.
        """
        teacher_outputs = []
        if self.objective.needs_teachers(progress):
            teacher_outputs = self._teachers.outputs(
                batch, progress.epoch, self.objective.teacher_taps
            )
        return self.backward_step(self.forward(batch), teacher_outputs, batch, progress)

    def forward(self, batch: Batch, taps: frozenset[str] = frozenset()) -> Output:
        """The student's outputs for a batch; ``taps`` are further blocks to return."""
        with autocast(self._dtype, self._device):
            return self._communicator.forward_batch(self._student, batch.images, self._taps | taps)

    def backward_step(
        self,
        student_output: Output,
        teacher_outputs: Sequence[Output],
        batch: Batch,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """One step from the outputs of the student and its teachers; returns as :meth:`step`."""
        losses: dict[str, Tensor]
        total, losses = self.objective(student_output, teacher_outputs, batch, progress)
        if losses:
            self._optimizer_step(total, progress)
            losses["loss"] = total.detach()
        return losses

    def _optimizer_step(self, loss: Tensor, progress: Progress) -> None:
        all_reduce = partial(
            self._communicator.all_reduce_gradients,
            self._student_parameters,
            self._objective_parameters,
        )
        self._descent.minimise(loss, self._training.lr_at(progress.position), all_reduce)
        if self._ema is not None:
            self._ema.update(progress.steps_done)

    def state(self) -> dict[str, Tensor]:
        """A checkpoint of the learner, for :meth:`load`."""
        tensors = add_prefix("student", self._student.state_dict())
        tensors |= add_prefix("objective", self.objective.state_dict())
        if self._ema is not None:
            tensors |= add_prefix("average", self._ema.network.state_dict())
        return tensors | add_prefix("optimizer", self._descent.state())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a checkpoint of :meth:`state`, of a learner built the same way."""
        self._student.load_state_dict(strip_prefix("student", tensors))
        self.objective.load_state_dict(strip_prefix("objective", tensors))
        if self._ema is not None:
            self._ema.network.load_state_dict(strip_prefix("average", tensors))
        self._descent.load(strip_prefix("optimizer", tensors))
