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

from stillhouse.methods.core.config.requirements import Brings, SplitTeachers
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import MethodConfig, Pair, Preset, Progress
from stillhouse.methods.core.objective.soft_labels import imitation, softened
from stillhouse.methods.core.objective.subclass_logits import SubclassMethod
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network, Output
from stillhouse.spaces.modules.subclasses import before_classes, subclasses_of


class Subclasses(SubclassMethod):
    """Divergence of the student's softened subclass probabilities from the teachers'."""

    class Config(MethodConfig):
        """Settings of :class:`Subclasses`."""

        subclasses: int = knob(5, "of every class, in all networks", Choice((2, 5, 10)), ge=1)
        temperature: float = knob(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        contrast: float = knob(
            0.3, "subclass_contrast's weight in a teacher made again", LogUniform(0.05, 2.0), ge=0.0
        )
        tau: float = knob(0.5, "subclass_contrast's tau there", LogUniform(0.05, 1.0), gt=0.0)

        def brings(self) -> tuple[Brings, ...]:
            return (SplitTeachers(self.subclasses, self.contrast, self.tau),)

        def splits(self) -> int:
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
            beside=("cross_entropy",),
        ),
    }
    zero_when_equal = True
    compares_logits = True

    def __init__(self, config: Config, pair: Pair) -> None:
        super().__init__(config, pair)
        _require(config.subclasses, pair.student, "the student")
        for number, teacher in enumerate(pair.teachers, start=1):
            _require(config.subclasses, teacher, f"teacher {number}")
        self._teacher_taps = [before_classes(teacher) for teacher in pair.teachers]

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return (self._teacher_taps[teacher],)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits of subclasses [B, classes * S] of the student and of every teacher."""
        t = self.config.temperature
        heard = zip(teachers, self._teacher_taps, strict=True)
        labels = [softened(output.features[tap], t) for output, tap in heard]
        return imitation(self.split_logits(student), labels, t)


def _require(wanted: int, network: Network, who: str) -> None:
    if (found := subclasses_of(network)) != wanted:
        whole = "splits no class" if found == 1 else f"splits every class into {found}"
        message = f"is {wanted}, and {who} {whole}; set subclasses: {wanted} beside its network"
        raise ConfigError([Problem("subclasses", message)])
