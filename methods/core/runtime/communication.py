"""Workers: processes that train one network together, each on its share of every batch.

The result is that of one worker up to rounding. Every worker draws the same batch, runs the
networks on its own rows of it alone, and gathers what they said from all: the whole objective is
then computed by each, also where it relates the examples of a batch to one another. The gather
passes back only the gradient of the own rows, so that the workers' gradients of the student add up
to the gradient; batch norm sees the whole batch
(:mod:`stillhouse.methods.core.runtime.synced_norm`). What the objective trains of its own gets its
whole gradient everywhere, and the first worker's is taken.

Only dropout differs: which units drop out is drawn by every worker for its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stillhouse.methods.core.runtime.checkpointing import Saves
from stillhouse.methods.core.runtime.seeding import seeded
from stillhouse.methods.core.runtime.synced_norm import SyncedBatchNorm
from stillhouse.spaces.config.problems import first_line
from stillhouse.spaces.modules.network import Network, Output

_Told = TypeVar("_Told")


class Parted(RuntimeError):
    """Another worker is gone, or out of reach."""


class Worker:
    """One that trains by itself: there is nobody to share with."""

    @property
    def leads(self) -> bool:
        """Whether it is the one that saves and publishes."""
        return True

    def outputs(self, network: Network, images: Tensor, taps: Collection[str]) -> Output:
        """What a network says of a whole batch [B, C, H, W]."""
        output: Output = network(images, taps)
        return output

    def sum_gradients(
        self, shared: Sequence[nn.Parameter], own: Sequence[nn.Parameter] = ()
    ) -> None:
        """Make the gradients those of the whole batch.

        Args:
            shared: of a network that :meth:`outputs` ran, a part of it at each worker.
            own: of what saw the whole batch at every worker.
        """

    def agree(self, *modules: nn.Module) -> None:
        """Give all modules the leader's parameters and buffers."""

    def told(self, value: _Told) -> _Told:
        """The leader's ``value``."""
        return value

    def saves(self, saves: Saves | None) -> Saves | None:
        """Where all of them resume from, and the leader saves to."""
        return saves


ALONE = Worker()


class Partner(Worker):
    """One of several; torch's default process group connects them, and all do the same calls."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._norm = SyncedBatchNorm(self._exchange)

    @property
    def leads(self) -> bool:
        """Whether it is the one that saves and publishes."""
        return self.rank == 0

    def outputs(self, network: Network, images: Tensor, taps: Collection[str]) -> Output:
        """What a network says of a whole batch, a share of which ran here."""
        rows = -(-len(images) // self.size)
        share = images[self.rank * rows : (self.rank + 1) * rows]
        with self._apart(network, images.device):
            said: Output = network(share, taps)

        def whole(x: Tensor) -> Tensor:
            gathered: Tensor = _Gather.apply(x, len(images), rows, self.rank, self._exchange)
            return gathered

        return Output(whole(said.logits), {name: whole(x) for name, x in said.features.items()})

    @contextmanager
    def _apart(self, network: Network, device: torch.device) -> Iterator[None]:
        """In training, batch norm looks at all rows, and dropout is drawn by each for its own."""
        if not network.training:
            yield
            return
        word = int(torch.randint(2**62, ()))  # the same everywhere, as is the generator after it
        with seeded(device, word, self.rank), self._norm:
            yield

    def sum_gradients(
        self, shared: Sequence[nn.Parameter], own: Sequence[nn.Parameter] = ()
    ) -> None:
        """Add up the shares' gradients, and take the leader's of what saw everything."""
        gradients = [p.grad for p in shared if p.grad is not None]
        taken = [p.grad for p in own if p.grad is not None]
        if not self.leads:
            for gradient in taken:
                gradient.zero_()
        for some in _by_type(gradients + taken):
            flat = torch.cat([gradient.flatten() for gradient in some])
            with _met():
                dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in some])
            for gradient, part in zip(some, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def agree(self, *modules: nn.Module) -> None:
        """Give all modules the leader's parameters and buffers."""
        with torch.no_grad(), _met():
            for tensor in (t for module in modules for t in module.state_dict().values()):
                sent = tensor.contiguous()
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)

    def told(self, value: _Told) -> _Told:
        """The leader's ``value``, of plain data and tensors."""
        told = [value if self.leads else None]
        with _met():
            dist.broadcast_object_list(told, src=0)
        return cast(_Told, told[0])

    def saves(self, saves: Saves | None) -> Saves | None:
        """Where all of them resume from, and the leader saves to."""
        return None if saves is None else _LeadersSaves(self, saves)

    def _exchange(self, own: Tensor) -> Tensor:
        """[workers, ...] from tensors that have the same shape at all workers."""
        everybody = own.new_empty((self.size, *own.shape))
        with _met():
            dist.all_gather(list(everybody), own.contiguous())
        return everybody


class _LeadersSaves:
    """Saves that the leader reads for all and writes alone."""

    def __init__(self, worker: Partner, saves: Saves) -> None:
        self._worker, self._saves = worker, saves

    def load(self) -> dict[str, Tensor] | None:
        return self._worker.told(self._saves.load() if self._worker.leads else None)

    def due(self) -> bool:
        return self._worker.leads and self._saves.due()

    def store(self, tensors: dict[str, Tensor]) -> None:
        self._saves.store(tensors)


class _Gather(torch.autograd.Function):
    """All rows from every worker's own; back comes the gradient of the own rows."""

    @staticmethod
    def forward(
        ctx: Any,
        share: Tensor,
        total: int,
        rows: int,
        rank: int,
        exchange: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.place = slice(rank * rows, rank * rows + len(share))
        filled = share.new_zeros((rows, *share.shape[1:]))  # the last shares may be short or empty
        filled[: len(share)] = share
        return exchange(filled).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, whole: Tensor) -> tuple[Tensor, None, None, None, None]:
        return whole[ctx.place], None, None, None, None


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    return list(found.values())


@contextmanager
def _met() -> Iterator[None]:
    """Say which errors come from another worker's loss and not from this one's program.

    Raises:
        Parted: the others could not be reached.
    """
    try:
        yield
    except RuntimeError as error:
        raise Parted(f"another worker is gone: {first_line(error)}") from error
