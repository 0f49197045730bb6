"""The base of methods that read the logits of subclasses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.methods.core.objective.method import BuildContext, Method
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output
from stillhouse.spaces.modules.subclasses import num_subclasses, subclass_logits_block


class SubclassMethod(Method):
    """A method on the logits [B, classes * S] of the student's subclasses."""

    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        if self.needs_subclasses and num_subclasses(context.student) == 1:
            message = "needs a network with subclasses; set subclasses: 5 together with its network"
            raise ConfigError([Problem("", message)])
        self.subclasses = num_subclasses(context.student)
        self._tap = subclass_logits_block(context.student)

    def student_taps(self) -> tuple[str, ...]:
        return (self._tap,)

    def subclass_logits(self, student: Output) -> Tensor:
        """The student's subclass logits [B, classes * S], class by class."""
        return student.features[self._tap]
