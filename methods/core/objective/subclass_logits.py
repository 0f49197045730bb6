"""What methods on subclasses read: the logits of all subclasses, class by class."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.methods.core.objective.method import Method, Pair
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output
from stillhouse.spaces.modules.subclasses import before_classes, subclasses_of


class SubclassMethod(Method):
    """A method on the logits [B, classes * S] of the student's subclasses."""

    def __init__(self, config: Any, pair: Pair) -> None:
        super().__init__(config, pair)
        if self.needs_subclasses and subclasses_of(pair.student) == 1:
            message = "needs a network with subclasses; set subclasses: 5 beside its network"
            raise ConfigError([Problem("", message)])
        self.subclasses = subclasses_of(pair.student)
        self._tap = before_classes(pair.student)

    def student_taps(self) -> tuple[str, ...]:
        return (self._tap,)

    def split_logits(self, student: Output) -> Tensor:
        """The student's, [B, classes * S]."""
        return student.features[self._tap]
