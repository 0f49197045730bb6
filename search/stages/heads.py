"""``do: heads``: classifiers on the inner blocks of a teacher (DIH, arXiv 2103.00497).

The teacher stays as it is, bit for bit; all heads learn together, and each keeps the epoch that
was its own best on the validation split, whatever ``training.keep`` says. The entry is the teacher
with heads: it teaches like any other network, and by all its heads where ``heads`` is a method.
"""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.methods.core.config.requirements import At
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.ops.heads import AttachHeads, heads_on
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Domain


class Heads(Kind):
    """An entry that gives its teacher a head on the end of each stage, or on named blocks."""

    teacher: str = knob(..., "the entry whose network gets heads")
    at: At = knob("stages", "blocks that get one, or stages for the end of each")
    training: Training = knob(Training(epochs=20, lr=0.01), "how all of them are trained")

    def needs(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def repeated(self) -> bool:
        return False  # with its heads it is a teacher as before

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        work = AttachHeads.parse({"at": self.at, "training": self.training, "seed": self.seed})
        return Entry((heads_on(name, needed[self.teacher].stage, work, data),))

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("training", field):
                return Training.space().get(field)
        return None
