"""``do: heads``: classifiers on the inner blocks of a teacher (DIH, arXiv 2103.00497).

The teacher stays as it is, bit for bit; all heads learn together, and each keeps the epoch that
was its own best on the validation split, whatever ``training.keep`` says. The entry is the teacher
with heads: it teaches like any other network, and by all its heads where ``heads`` is a method.
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
    at: HeadPlacement = setting("stages", "blocks that get one, or stages for the end of each")
    training: Training = setting(Training(epochs=20, lr=0.01), "how all of them are trained")

    def dependencies(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def is_reseeded(self) -> bool:
        return False  # with its heads it is a teacher as before

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
