"""The base of distillation methods: a loss over the outputs of the networks for one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stillhouse.methods.core.config.requirements import TeacherRequirement
from stillhouse.methods.core.config.schedule import Schedule
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.runtime.seeding import derive_seed
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network, Output


@dataclass(frozen=True)
class Progress:
    """The progress of training; ``epoch`` and ``step`` count from 0, ``seed`` is the stage's."""

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int
    seed: int

    @property
    def steps_done(self) -> int:
        """Steps before this one, in all epochs."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def position(self) -> float:
        """Epochs done, the argument of schedules: 2.5 in the middle of the third epoch."""
        return self.epoch + self.step / self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """The share of training done, from 0 to 1."""
        return self.position / self.epochs


@dataclass(frozen=True)
class BuildContext:
    """The arguments of a method's constructor: the networks, and facts of the data.

    The networks are in eval mode and on the device of ``sample``; run them without gradients.
    """

    student: Network
    teachers: Sequence[Network]
    classes: int
    examples: int
    sample: Tensor
    """A few images [n, C, H, W] in 0..1, to read feature shapes from."""


_WEIGHT_HELP = "share of this method in the summed loss"


class MethodConfig(Config):
    """Settings of every method. ``weight`` multiplies its loss in the objective's sum."""

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields added later; at their defaults they are left out of the stage key."""

    weight: float = setting(1.0, _WEIGHT_HELP, Uniform(0, 1), ge=0.0)
    schedule: Schedule | None = setting(None, "how the weight changes over the epochs")

    def identity(self) -> dict[str, Any]:
        """The settings that decide the loss."""
        non_defaults = self.model_dump(mode="json", exclude_defaults=True)
        plain = self.plain()
        return {k: v for k, v in plain.items() if k not in self.added_later or k in non_defaults}

    @staticmethod
    def weight_setting(default: float, low: float, high: float) -> Any:
        """The field ``weight`` with another default and another domain."""
        return setting(default, _WEIGHT_HELP, LogUniform(low, high), ge=0.0)

    def requirements(self) -> tuple[TeacherRequirement, ...]:
        """What the method requires of its teachers."""
        return ()

    def num_subclasses(self) -> int:
        """Number of subclasses per class that the student must have."""
        return 1

    def weight_at(self, position: float, epochs: int) -> float:
        """The weight after ``position`` of ``epochs`` epochs."""
        factor = self.schedule.factor(position, epochs) if self.schedule else 1.0
        return self.weight * factor


@dataclass(frozen=True)
class Preset:
    """Published settings of a method: ``objective: {attention: {preset: tian2020}}``.

    ``source`` names the publication and the task. ``companions`` names methods with a preset of
    the same name, which were published together with this one.
    """

    settings: Mapping[str, Any]
    source: str
    companions: tuple[str, ...] = ()


class Method(nn.Module):
    """One term of an objective; one file in ``methods`` each.

    Trainable parts of a method (a connector, a translator) are its submodules. The training loop
    trains them together with the student and drops them at the end. The loop sets modes, devices
    and gradients. The loss is computed in float32, also if the networks run in bfloat16.

    Attributes:
        version: Raise it if the same settings give another loss.
        zero_when_equal: The loss is 0 if the student's outputs equal the teacher's.
        needs_labels: The loss reads the labels.
        accepts_soft_labels: Labels may also be [B, classes] of float.
        compares_logits: All networks must have equally many logits.
        needs_subclasses: The student must split its classes into subclasses.
        presets: Published settings by name.

    Raises:
        ConfigError: on construction, if the settings do not fit the networks.
    """

    version: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    accepts_soft_labels: ClassVar[bool] = False
    zero_when_equal: ClassVar[bool] = False
    compares_logits: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Preset]] = {}
    needs_subclasses: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    config: Any

    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__()
        self.config = config
        if self.compares_logits:
            require_equal_logits(context)

    def student_taps(self) -> tuple[str, ...]:
        """Names of the student's blocks whose outputs ``forward`` reads."""
        return ()

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        """The same for teacher number ``teacher``."""
        return ()

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """The loss, a scalar averaged over the batch."""
        raise NotImplementedError

    @staticmethod
    def mean_over_teachers(losses: Iterable[Tensor]) -> Tensor:
        """The mean of scalar losses, one for each teacher."""
        return torch.stack(list(losses)).mean()


def require_equal_logits(context: BuildContext) -> None:
    """Check that all networks have equally many logits.

    Raises:
        ConfigError: a teacher has another number of logits than the student.
    """
    with torch.no_grad():
        widths = [
            n(context.sample, ()).logits.shape[1] for n in (context.student, *context.teachers)
        ]
    for teacher, width in enumerate(widths[1:], start=1):
        if width != widths[0]:
            raise ConfigError(
                f"compares logits, but the student has {widths[0]} and teacher {teacher} has "
                f"{width}; teach it on the same classes"
            )


def step_generator(progress: Progress, salt: int = 0) -> torch.Generator:
    """A CPU generator from the seed and the step, so a resumed run repeats its numbers."""
    generator = torch.Generator()
    generator.manual_seed(derive_seed(progress.seed, progress.epoch, progress.step, salt))
    return generator
