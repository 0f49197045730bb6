"""Subclasses: the student imitates the teacher's softened probabilities of all subclasses.

    L_i = T^2 * mean_b sum_cs p_i[b, cs] * (log p_i[b, cs] - log q[b, cs])
    p_i = softmax(v(teacher_i) / T),  q = softmax(v(student) / T)

v [B, classes * S] are the logits of subclasses: a teacher that splits every class into S of its own
invention tells C * S - 1 numbers an image instead of C - 1, which matters where classes are few.
Several teachers: the mean of the L_i. With S = 1 it is the method ``soft_targets``.

Mueller, Kornblith and Hinton 2020, "Subclass distillation", section 2. Beside it the student learns
class labels with cross entropy over summed probabilities (the logits that its last block gives).
T divides the logits of both networks, so that T^2 keeps the gradient's size; public code that
softens the teacher alone does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from stillhouse.methods.core.config.requirements import SplitTeachers, TeacherRequirement
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, MethodConfig, Preset, Progress
from stillhouse.methods.core.objective.soft_labels import distillation_loss, softened_log_probs
from stillhouse.methods.core.objective.subclass_logits import SubclassMethod
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network, Output
from stillhouse.spaces.modules.subclasses import num_subclasses, subclass_logits_block


class Subclasses(SubclassMethod):
    """Divergence of the student's softened subclass probabilities from the teachers'."""

    class Config(MethodConfig):
        """Settings of :class:`Subclasses`."""

        subclasses: int = setting(5, "of every class, in all networks", Choice((2, 5, 10)), ge=1)
        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        contrast: float = setting(
            0.3, "subclass_contrast's weight in a teacher made again", LogUniform(0.05, 2.0), ge=0.0
        )
        tau: float = setting(0.5, "subclass_contrast's tau there", LogUniform(0.05, 1.0), gt=0.0)

        def requirements(self) -> tuple[TeacherRequirement, ...]:
            return (SplitTeachers(self.subclasses, self.contrast, self.tau),)

        def num_subclasses(self) -> int:
            return self.subclasses

    config: Config
    presets: ClassVar = {
        "mueller2020_mnist": Preset(
            {
                "weight": 0.5,
                "subclasses": 5,
                "temperature": 4.0,
                "contrast": 1.0,
                "tau": 1.0,
            },
            "Mueller, Kornblith and Hinton 2020, the authors' code, MNIST in two classes",
            companions=("cross_entropy",),
        ),
    }
    zero_when_equal = True
    compares_logits = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        _require_subclasses(config.subclasses, context.student, "the student")
        for number, teacher in enumerate(context.teachers, start=1):
            _require_subclasses(config.subclasses, teacher, f"teacher {number}")
        self._teacher_taps = [subclass_logits_block(teacher) for teacher in context.teachers]

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return (self._teacher_taps[teacher],)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits of subclasses [B, classes * S] of the student and of every teacher."""
        t = self.config.temperature
        teacher_taps = zip(teachers, self._teacher_taps, strict=True)
        labels = [softened_log_probs(output.features[tap], t) for output, tap in teacher_taps]
        return distillation_loss(self.subclass_logits(student), labels, t)


def _require_subclasses(expected: int, network: Network, owner: str) -> None:
    if (actual := num_subclasses(network)) != expected:
        state = "splits no class" if actual == 1 else f"splits every class into {actual}"
        message = (
            f"is {expected}, and {owner} {state}; set subclasses: {expected} beside its network"
        )
        raise ConfigError([Problem("subclasses", message)])
