"""What a distillation method is: a loss over what the networks said of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stillhouse.methods.core.config.requirements import TeacherRequirement
from stillhouse.methods.core.config.schedule import Schedule
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.runtime.seeding import derive_seed
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Uniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network, Output


@dataclass(frozen=True)
class Progress:
    """Where training stands. ``epoch`` and ``step`` count from 0; ``seed`` is the stage's."""

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int
    seed: int

    @property
    def steps_done(self) -> int:
        """Steps taken before this one, in all epochs."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def position(self) -> float:
        """In epochs: 2.5 in the middle of the third; what schedules are asked with."""
        return self.epoch + self.step / self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """0 at the first step, towards 1 at the last."""
        return self.position / self.epochs


@dataclass(frozen=True)
class BuildContext:
    """What a method may know when it is built: the networks and the facts of the data.

    The networks are in eval mode and on the device of ``sample``; run them without gradients.
    """

    student: Network
    teachers: Sequence[Network]
    classes: int
    examples: int
    sample: Tensor
    """A few images [n, C, H, W] in 0..1, to read feature shapes from."""


class MethodConfig(Config):
    """Settings every method has. ``weight`` multiplies its loss in the objective's sum."""

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that joined when artifacts were there: at their defaults they are in no key."""

    weight: float = setting(1.0, "share of this method in the summed loss", Uniform(0, 1), ge=0.0)
    schedule: Schedule | None = setting(None, "how the weight changes over the epochs")

    def identity(self) -> dict[str, Any]:
        """The settings that decide the loss."""
        non_defaults = self.model_dump(mode="json", exclude_defaults=True)
        plain = self.plain()
        return {k: v for k, v in plain.items() if k not in self.added_later or k in non_defaults}

    def requirements(self) -> tuple[TeacherRequirement, ...]:
        """What has to be made of the teachers before they can teach by this method."""
        return ()

    def num_subclasses(self) -> int:
        """Into how many subclasses the student has to split every class."""
        return 1

    def weight_at(self, position: float, epochs: int) -> float:
        """The weight ``position`` epochs into a training of ``epochs``."""
        factor = self.schedule.factor(position, epochs) if self.schedule else 1.0
        return self.weight * factor


@dataclass(frozen=True)
class Preset:
    """Published settings of a method: ``objective: {attention: {preset: tian2020}}``.

    ``source`` says where they stand and for what; ``companions`` names the methods they were
    published together with, whose presets have the same name.
    """

    settings: Mapping[str, Any]
    source: str
    companions: tuple[str, ...] = ()


class Method(nn.Module):
    """One term of an objective; one file in ``methods`` each.

    A method's own trainable parts (a connector, a translator) are its submodules: the loop trains
    them beside the student and drops them at the end. The loop owns modes, devices and gradients;
    a method only says what the loss is. It is computed in float32 whatever the networks ran in.

    ``version`` rises when the same settings come to mean another loss. ``zero_when_equal`` says
    that the loss is 0 where the student's outputs are the teacher's, ``needs_labels`` that it
    reads the labels, ``accepts_soft_labels`` that they may be [B, classes] of float as well,
    ``compares_logits`` that all networks must give equally many,
    ``needs_subclasses`` that the student must split its classes (see
    ``stillhouse.spaces.modules.subclasses``). ``presets`` are published settings by name.

    Raises:
        ConfigError: on construction, where settings do not fit the networks.
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


def require_equal_logits(context: BuildContext) -> None:
    """For methods that compare logits one by one: all networks must give equally many.

    Raises:
        ConfigError: a teacher knows other classes than the student.
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
    """A CPU generator that depends on the seed and the step alone, so resuming repeats it."""
    generator = torch.Generator()
    generator.manual_seed(derive_seed(progress.seed, progress.epoch, progress.step, salt))
    return generator
