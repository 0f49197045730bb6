"""Peers: networks that learn together, each with all others as its teachers.

Zhang, Xiang, Hospedales and Lu 2018, "Deep mutual learning", section 3: with cross entropy and
soft targets at T = 1, peer i of K descends

    L_i = CE(y, p_i) + 1 / (K - 1) * sum_{j != i} KL(p_j || p_i)

without a gradient into p_j; any other objective of teachers works alike. All step at once: what
everyone said of a batch before the step is what the others learn from, so that no peer has a
place in an order and each passes over a batch once. (Algorithm 1 of the paper lets peers step in
turn, and look again after every turn.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Progress
from stillhouse.methods.core.training.learner import Learner, below
from stillhouse.methods.core.training.teachers import Teachers
from stillhouse.spaces.modules.network import Network, Output


class Peers:
    """Several learners that take every step together; the first is the student.

    Args:
        learners: their objectives are built for ``teachers`` and, after those, for the other
            learners' networks in order.
        teachers: those that do not learn, and teach all.
    """

    def __init__(self, learners: Sequence[Learner], teachers: Teachers) -> None:
        self._all, self._teachers = list(learners), teachers
        self._wanted = [self._wanted_of(speaker) for speaker in range(len(self._all))]

    @property
    def results(self) -> tuple[Network, ...]:
        """What each came to, the student first: itself, or the average of its weights."""
        return tuple(learner.result for learner in self._all)

    def train(self) -> None:
        """Make ready for steps: dropout and batch statistics on."""
        for learner in self._all:
            learner.train()

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Every peer learns from one batch, and from what all others said of it before.

        Returns:
            The student's losses as a :class:`Learner` tells them, and ``peer1_loss`` ...
        """
        heard: list[Output] = []
        if self._all[0].objective.hears_teachers(progress):
            heard = self._teachers.outputs(batch, progress.epoch, self._taps)
        said = [each.say(batch, taps) for each, taps in zip(self._all, self._wanted, strict=True)]
        kept = [_still(output) for output in said]
        losses: dict[str, Tensor] = {}
        for i, learner in enumerate(self._all):
            taught = [*heard, *kept[:i], *kept[i + 1 :]]
            found = learner.learn(said[i], taught, batch, progress)
            losses |= found if i == 0 else {f"peer{i}_{k}": found[k] for k in found if k == "loss"}
        return losses

    def state(self) -> dict[str, Tensor]:
        """All that a later :meth:`load` needs: the student's as alone, the others' by number."""
        tensors = self._all[0].state()
        for i, learner in enumerate(self._all[1:], start=1):
            tensors |= {f"peer{i}.{name}": value for name, value in learner.state().items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state` gave, of peers built the same way."""
        self._all[0].load(tensors)
        for i, learner in enumerate(self._all[1:], start=1):
            learner.load(below(f"peer{i}", tensors))

    def _taps(self, teacher: int) -> frozenset[str]:
        """Blocks of a teacher that does not learn, which some peer listens to."""
        return frozenset[str]().union(*(each.objective.teacher_taps(teacher) for each in self._all))

    def _wanted_of(self, speaker: int) -> frozenset[str]:
        """Blocks of a peer that the others listen to."""
        taps: frozenset[str] = frozenset()
        for i, listener in enumerate(self._all):
            if i != speaker:
                place = speaker if speaker < i else speaker - 1
                taps |= listener.objective.teacher_taps(len(self._teachers) + place)
        return taps


def _still(output: Output) -> Output:
    """The same without gradients: who listens does not change who speaks."""
    features = {name: x.detach() for name, x in output.features.items()}
    return Output(output.logits.detach(), features)
