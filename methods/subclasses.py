"""Subclasses: the student imitates the teacher's softened probabilities of all subclasses.

    L_i = T^2 * mean_b sum_cs p_i[b, cs] * (log p_i[b, cs] - log q[b, cs])
    p_i = softmax(v(teacher_i) / T),  q = softmax(v(student) / T)

v [B, classes * S] are the subclass logits. A teacher that splits each of C classes into S
subclasses gives C * S - 1 numbers for an image instead of C - 1. This helps if there are few
classes. The loss is the mean of the L_i over teachers. With S = 1 it equals ``soft_targets``.

Mueller, Kornblith and Hinton 2020, "Subclass distillation", section 2. The student also learns
class labels by cross entropy over summed probabilities, the logits of its last block. T divides the
logits of both networks, so T^2 keeps the size of the gradient. Public code divides the teacher's
logits only.
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
            0.3, "weight of subclass_contrast in a new teacher", LogUniform(0.05, 2.0), ge=0.0
        )
        tau: float = setting(
            0.5, "tau of subclass_contrast in a new teacher", LogUniform(0.05, 1.0), gt=0.0
        )

        def requirements(self) -> tuple[TeacherRequirement, ...]:
            return (SplitTeachers(self.subclasses, self.contrast, self.tau),)

        def num_subclasses(self) -> int:
            return self.subclasses

    config: Config
    presets: ClassVar = {
        "mueller2020_mnist": Preset(
            {"weight": 0.5, "subclasses": 5, "temperature": 4.0, "contrast": 1.0, "tau": 1.0},
            "Mueller, Kornblith and Hinton 2020, the authors' code, MNIST in two classes",
            companions=("cross_entropy",),
        )
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
        remedy = f"set subclasses: {expected} together with its network"
        raise ConfigError([Problem("subclasses", f"is {expected}, and {owner} {state}; {remedy}")])
