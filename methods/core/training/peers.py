"""Peers: networks that train together, each with all others as its teachers.

Zhang, Xiang, Hospedales and Lu 2018, "Deep mutual learning", section 3: with cross entropy and
soft targets at T = 1, peer i of K minimises

    L_i = CE(y, p_i) + 1 / (K - 1) * sum_{j != i} KL(p_j || p_i)

without a gradient into p_j; other objectives with teachers work alike. All peers step at once: each
learns from the outputs of the others before the step. So the order of peers has no effect, and each
runs a batch once. (In algorithm 1 of the paper peers step in turn and run again after every turn.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Progress
from stillhouse.methods.core.runtime.checkpointing import add_prefix, strip_prefix
from stillhouse.methods.core.training.learner import Learner
from stillhouse.methods.core.training.teachers import Teachers
from stillhouse.spaces.modules.network import Network, Output


class Peers:
    """Several learners that take every step together; the first is the student.

    Args:
        learners: their objectives are built for ``teachers`` and then for the networks of the
            other learners, in order.
        teachers: frozen teachers of all learners.
    """

    def __init__(self, learners: Sequence[Learner], teachers: Teachers) -> None:
        self._learners, self._teachers = list(learners), teachers
        self._peer_taps = [self._taps_on_peer(peer) for peer in range(len(self._learners))]

    @property
    def results(self) -> tuple[Network, ...]:
        """The trained networks, the student first."""
        return tuple(network for learner in self._learners for network in learner.results)

    def train(self) -> None:
        """Switch to training mode: dropout and batch statistics are on."""
        for learner in self._learners:
            learner.train()

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Train every peer on one batch and on the outputs of the others before the step.

        Returns:
            The student's losses as from ``Learner.step``, and ``peer1_loss`` ...
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
            if i == 0:
                losses = peer_losses
            elif "loss" in peer_losses:
                losses[f"peer{i}_loss"] = peer_losses["loss"]
        return losses

    def state(self) -> dict[str, Tensor]:
        """A checkpoint for :meth:`load`; the names of a peer's tensors have a prefix."""
        tensors = self._learners[0].state()
        for i, learner in enumerate(self._learners[1:], start=1):
            tensors |= add_prefix(f"peer{i}", learner.state())
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a checkpoint of :meth:`state`, of peers built the same way."""
        self._learners[0].load(tensors)
        for i, learner in enumerate(self._learners[1:], start=1):
            learner.load(strip_prefix(f"peer{i}", tensors))

    def _teacher_taps(self, teacher: int) -> frozenset[str]:
        """Blocks of a frozen teacher whose outputs the peers need."""
        return frozenset[str]().union(
            *(learner.objective.teacher_taps(teacher) for learner in self._learners)
        )

    def _taps_on_peer(self, peer: int) -> frozenset[str]:
        """Blocks of a peer whose outputs the others need."""
        taps: frozenset[str] = frozenset()
        for i, other in enumerate(self._learners):
            if i != peer:
                teacher_number = peer if peer < i else peer - 1
                taps |= other.objective.teacher_taps(len(self._teachers) + teacher_number)
        return taps


def _detached(output: Output) -> Output:
    """The same without gradients: a peer does not train the peers that it learns from."""
    features = {name: x.detach() for name, x in output.features.items()}
    return Output(output.logits.detach(), features)
