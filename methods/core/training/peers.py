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
from stillhouse.methods.core.training.learner import Learner, strip_prefix
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
        self._learners, self._teachers = list(learners), teachers
        self._peer_taps = [self._taps_on_peer(peer) for peer in range(len(self._learners))]

    @property
    def results(self) -> tuple[Network, ...]:
        """What each came to, the student first: itself, or the average of its weights."""
        return tuple(learner.result for learner in self._learners)

    def train(self) -> None:
        """Make ready for steps: dropout and batch statistics on."""
        for learner in self._learners:
            learner.train()

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Every peer learns from one batch, and from what all others said of it before.

        Returns:
            The student's losses as a :class:`Learner` tells them, and ``peer1_loss`` ...
        """
        teacher_outputs: list[Output] = []
        if self._learners[0].objective.needs_teachers(progress):
            teacher_outputs = self._teachers.outputs(batch, progress.epoch, self._teacher_taps)
        peer_outputs = [
            peer.forward(batch, taps)
            for peer, taps in zip(self._learners, self._peer_taps, strict=True)
        ]
        detached_outputs = [_detached(output) for output in peer_outputs]
        losses: dict[str, Tensor] = {}
        for i, learner in enumerate(self._learners):
            outputs = [*teacher_outputs, *detached_outputs[:i], *detached_outputs[i + 1 :]]
            peer_losses = learner.backward_step(peer_outputs[i], outputs, batch, progress)
            losses |= (
                peer_losses
                if i == 0
                else {f"peer{i}_{k}": peer_losses[k] for k in peer_losses if k == "loss"}
            )
        return losses

    def state(self) -> dict[str, Tensor]:
        """All that a later :meth:`load` needs: the student's as alone, the others' by number."""
        tensors = self._learners[0].state()
        for i, learner in enumerate(self._learners[1:], start=1):
            tensors |= {f"peer{i}.{name}": value for name, value in learner.state().items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state` gave, of peers built the same way."""
        self._learners[0].load(tensors)
        for i, learner in enumerate(self._learners[1:], start=1):
            learner.load(strip_prefix(f"peer{i}", tensors))

    def _teacher_taps(self, teacher: int) -> frozenset[str]:
        """Blocks of a teacher that does not learn, which some peer listens to."""
        return frozenset[str]().union(
            *(learner.objective.teacher_taps(teacher) for learner in self._learners)
        )

    def _taps_on_peer(self, peer: int) -> frozenset[str]:
        """Blocks of a peer that the others listen to."""
        taps: frozenset[str] = frozenset()
        for i, other in enumerate(self._learners):
            if i != peer:
                teacher_number = peer if peer < i else peer - 1
                taps |= other.objective.teacher_taps(len(self._teachers) + teacher_number)
        return taps


def _detached(output: Output) -> Output:
    """The same without gradients: who listens does not change who speaks."""
    features = {name: x.detach() for name, x in output.features.items()}
    return Output(output.logits.detach(), features)
