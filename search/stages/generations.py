"""``do: generations``: a chain of equals, each taught by the one before it.

Furlanello et al. 2018, "Born-again neural networks", with ``soft_targets``; sequential FEED (Park
and Kwak 2020) with ``factors``. Every generation is an ordinary ``train`` stage of one network with
a seed of its own, so that one more generation later leaves those that are there untouched.
"""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import APART, Stage
from stillhouse.search.stages.expansion.prerequisites import brought
from stillhouse.search.stages.expansion.teachers import check_taught, declared_field
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Domain, Integers
from stillhouse.spaces.network_spec import NetworkSpec


class Generations(Kind):
    """An entry that makes one network again and again, the last of which is its result.

    The first learns from ``teacher``, or from the labels alone where there is none: by the
    objective's cross entropy with a weight of 1.
    """

    network: NetworkSpec = knob(..., "the network of every generation")
    teacher: str | None = knob(None, "an entry that teaches the first; none: the labels alone do")
    count: int = knob(3, "generations", Integers(1, 5), ge=1)
    objective: Objective = knob(..., "what each learns from the one before it")
    training: Training = knob(Training(), "how each is trained")
    ensemble: bool = knob(False, "all generations teach who learns from them, not the last alone")

    def needs(self) -> tuple[str, ...]:
        return (self.teacher,) if self.teacher else ()

    @property
    def repeated(self) -> bool:
        return True  # also without a teacher all but the first learn from another

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        before = needed[self.teacher].members if self.teacher else ()
        made: list[Stage] = []
        for number in range(self.count):
            teachers = (made[-1],) if made else before
            objective = self.objective if teachers else self._labels_alone()
            check_taught(objective, teachers)
            work = TrainNetwork(
                network=self.network,
                objective=objective,
                training=self.training,
                seed=self.seed + APART * number,
            )
            label = f"{name}/{number + 1}"
            made.append(Stage(label, work, data, brought(objective, teachers)))
        return Entry(tuple(made) if self.ensemble else (made[-1],))

    def _labels_alone(self) -> Objective:
        told = self.objective.plain().get("cross_entropy", {})
        return Objective.parse({"cross_entropy": {**told, "weight": 1.0}}, "objective")

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        if path == ("count",):
            return type(self).space()["count"]
        return declared_field(self, path)
