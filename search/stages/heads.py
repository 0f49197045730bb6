"""``do: heads``: classifiers on intermediate blocks of a teacher (DIH, arXiv 2103.00497).

The teacher does not change. All heads are trained together, and each keeps its own best epoch on
the validation split, whatever ``training.keep`` says. The result is the teacher with heads. It
teaches like any other network, and with all its heads if the objective has the method ``heads``.
"""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.methods.core.config.requirements import HeadPlacement
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.ops.heads import AttachHeads, make_heads_stage
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Domain


class Heads(StageConfig):
    """An entry that gives its teacher a head on the end of each stage, or on named blocks."""

    teacher: str = setting(..., "the entry whose network gets heads")
    at: HeadPlacement = setting(
        "stages", "blocks that get a head; stages: the last block of each stage"
    )
    training: Training = setting(Training(epochs=20, lr=0.01), "training of all heads")

    def dependencies(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def is_reseeded(self) -> bool:
        return False  # it is a teacher, and repetitions share teachers

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        operation = AttachHeads.parse({"at": self.at, "training": self.training, "seed": self.seed})
        return ExpandedStage(
            (make_heads_stage(name, expanded_dependencies[self.teacher].stage, operation, data),)
        )

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("training", field):
                return Training.search_space().get(field)
        return None
