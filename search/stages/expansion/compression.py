"""What kinds of entry have in common that make a trained network smaller: a step without training,
and then a fine-tuning in which the network as it was teaches."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import ClassVar

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import Stage, Work
from stillhouse.search.stages.expansion.prerequisites import brought
from stillhouse.search.stages.expansion.teachers import check_taught, declared_field
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import Config, knob
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.network_spec import NetworkSpec

DISTILLED = {
    "cross_entropy": {"weight": 0.3},
    "soft_targets": {"weight": 0.7, "temperature": 4.0},
}


class Tuned(Config):
    """The fine-tuning of a network that was made smaller."""

    objective: Objective | None = knob(
        Objective.parse(DISTILLED), "of the fine-tuning; none leaves it out"
    )
    training: Training = knob(Training(epochs=5, lr=0.01), "of the fine-tuning")

    @property
    def tuning(self) -> Objective | None:
        """What the fine-tuning learns from; none where there is none."""
        return self.objective


class Compressed(Tuned, Kind):
    """An entry that compresses the network of another."""

    package: ClassVar[str]
    """What does it, to be installed with the extra ``compress``."""

    start: str = knob(..., "the entry whose network is compressed")
    teachers: tuple[str, ...] = knob((), "entries it is fine-tuned from; none means `start` itself")

    def needs(self) -> tuple[str, ...]:
        return (self.start, *self.teachers)

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        if find_spec(self.package) is None:
            message = f"{self.do} needs {self.package}; pip install 'stillhouse[compress]'"
            raise ConfigError([Problem("do", message)])
        began = needed[self.start].stage
        if not began.work.makes_network:
            message = f"{began.label} is a {began.work.kind}, no network to compress"
            raise ConfigError([Problem("start", message)])
        work = self.work(began, data)
        first = Stage(f"{name}/{work.kind}d", work, data, (began,))
        objective = self.tuning
        if objective is None:
            return Entry((first,))
        named = self.teachers or (self.start,)
        taught = [m for teacher in named for m in needed[teacher].members[-1:]]
        teachers = taught if objective.needs_teacher else []
        check_taught(objective, teachers)
        tuned = TrainNetwork(
            network=None, objective=objective, training=self.training, seed=self.seed
        )
        parents = (first, *brought(objective, teachers))
        return Entry((first, Stage(name, tuned, data, parents)))

    def work(self, began: Stage, data: DataConfig) -> Work:
        """The step itself, for the network that ``began`` makes.

        Raises:
            ConfigError: it is known already that it cannot be.
        """
        raise NotImplementedError

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        found = declared_field(self, path) if path[0] in ("objective", "training") else None
        return found or type(self).space().get(".".join(path))


def origin(stage: Stage) -> NetworkSpec | None:
    """The named network that a stage's own began as; none where it was assembled."""
    *_, first = stage.descent()
    return first.work.network if isinstance(first.work, TrainNetwork) else None
