"""``do: generations``: one network trained several times, each time by its predecessor.

"Born-again neural networks" (Furlanello et al. 2018) with ``soft_targets``; sequential FEED (Park
and Kwak 2020) with ``factors``. Every generation is an ordinary ``train`` stage with its own seed.
A larger ``count`` therefore reuses the generations in the library.
"""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import REPLICA_SEED_OFFSET, Stage
from stillhouse.search.stages.expansion import prerequisites
from stillhouse.search.stages.expansion.teachers import (
    require_matching_teachers,
    training_field_domain,
)
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Domain, Integers
from stillhouse.spaces.network_spec import NetworkSpec


class Generations(StageConfig):
    """An entry that trains one network several times; the last generation is its result.

    ``teacher`` teaches the first generation. Without a teacher the first generation learns from
    labels only, by the cross entropy of the objective with a weight of 1.
    """

    network: NetworkSpec = setting(..., "the network of every generation")
    teacher: str | None = setting(
        None, "an entry that teaches the first generation; none: labels only"
    )
    count: int = setting(3, "number of generations", Integers(1, 5), ge=1)
    objective: Objective = setting(..., "objective of every generation")
    training: Training = setting(Training(), "training of every generation")
    ensemble: bool = setting(False, "all generations teach the student, not only the last")

    def dependencies(self) -> tuple[str, ...]:
        return (self.teacher,) if self.teacher else ()

    @property
    def is_reseeded(self) -> bool:
        return True  # without a teacher, too, all but the first have a teacher

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        first_teachers = expanded_dependencies[self.teacher].teaching_stages if self.teacher else ()
        generations: list[Stage] = []
        for number in range(self.count):
            teachers = (generations[-1],) if generations else first_teachers
            objective = self.objective if teachers else self._labels_only()
            require_matching_teachers(objective, teachers)
            operation = TrainNetwork(
                network=self.network,
                objective=objective,
                training=self.training,
                seed=self.seed + REPLICA_SEED_OFFSET * number,
            )
            label = f"{name}/{number + 1}"
            parents = prerequisites.expand(objective, teachers)
            generations.append(Stage(label, operation, data, parents))
        return ExpandedStage(tuple(generations) if self.ensemble else (generations[-1],))

    def _labels_only(self) -> Objective:
        cross_entropy = self.objective.plain().get("cross_entropy", {})
        return Objective.parse({"cross_entropy": {**cross_entropy, "weight": 1.0}}, "objective")

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        if path == ("count",):
            return type(self).search_space()["count"]
        return training_field_domain(self, path)
