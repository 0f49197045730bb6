"""Processes that train one network together, each on its share of every batch.

The result is that of one process up to rounding. Every process has the same batch, runs the
networks on its own rows, and gathers the outputs of all rows. Each then computes the whole
objective, which may relate examples of a batch to each other. The gather passes back the gradient
of the own rows only, so the gradients of the student add up over processes. Batch norm uses the
whole batch (``synced_norm``). Layers of the objective get their whole gradient in every process;
that of rank zero is used.

Only dropout differs: every process draws it for its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stillhouse.methods.core.runtime.checkpointing import Checkpointer
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.runtime.synced_norm import SyncedBatchNorm
from stillhouse.spaces.config.problems import first_line
from stillhouse.spaces.modules.network import Network, Output

_Value = TypeVar("_Value")


class PeerUnreachable(RuntimeError):
    """Another process of the group cannot be reached."""


class Communicator:
    """The communicator of a single process; the base of distributed ones."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process stores checkpoints and results."""
        return True

    def forward_batch(self, network: Network, images: Tensor, taps: Collection[str]) -> Output:
        """The output of a network for a whole batch [B, C, H, W]."""
        output: Output = network(images, taps)
        return output

    def all_reduce_gradients(
        self, shared: Sequence[nn.Parameter], replicated: Sequence[nn.Parameter] = ()
    ) -> None:
        """Replace the gradients by those of the whole batch.

        Args:
            shared: parameters of a network that :meth:`forward_batch` ran on a part of the batch.
            replicated: parameters of layers that had the whole batch in every process.
        """

    def broadcast_state(self, *modules: nn.Module) -> None:
        """Set the parameters and buffers of all modules to those of rank zero."""

    def broadcast(self, value: _Value) -> _Value:
        """The ``value`` of rank zero."""
        return value

    def shared_checkpointer(self, checkpointer: Checkpointer | None) -> Checkpointer | None:
        """A checkpointer from which all processes load and to which rank zero saves."""
        return checkpointer


SINGLE_PROCESS = Communicator()


class DistributedCommunicator(Communicator):
    """A process of torch's default process group; all processes make the same calls."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._norm = SyncedBatchNorm(self._all_gather)

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def forward_batch(self, network: Network, images: Tensor, taps: Collection[str]) -> Output:
        """The output for a whole batch; this process runs its share of the rows."""
        rows = -(-len(images) // self.size)
        share = images[self.rank * rows : (self.rank + 1) * rows]
        with self._local_batch_context(network, images.device):
            output: Output = network(share, taps)

        def gather(x: Tensor) -> Tensor:
            gathered: Tensor = _AllGatherRows.apply(
                x, len(images), rows, self.rank, self._all_gather
            )
            return gathered

        return Output(
            gather(output.logits), {name: gather(x) for name, x in output.features.items()}
        )

    @contextmanager
    def _local_batch_context(self, network: Network, device: torch.device) -> Iterator[None]:
        """In training, batch norm uses all rows, and each process draws dropout for its own."""
        if not network.training:
            yield
            return
        # The seed is the same in all processes, like the state of the generator after it.
        seed = int(torch.randint(2**62, ()))
        with seeded_torch(device, seed, self.rank), self._norm:
            yield

    def all_reduce_gradients(
        self, shared: Sequence[nn.Parameter], replicated: Sequence[nn.Parameter] = ()
    ) -> None:
        """Sum the gradients of shared parameters; use those of rank zero for replicated ones."""
        gradients = [p.grad for p in shared if p.grad is not None]
        replicated_gradients = [p.grad for p in replicated if p.grad is not None]
        if not self.is_rank_zero:
            for gradient in replicated_gradients:
                gradient.zero_()
        for group in _group_by_dtype(gradients + replicated_gradients):
            flat = torch.cat([gradient.flatten() for gradient in group])
            with _peer_errors():
                dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in group])
            for gradient, part in zip(group, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def broadcast_state(self, *modules: nn.Module) -> None:
        with torch.no_grad(), _peer_errors():
            for tensor in (t for module in modules for t in module.state_dict().values()):
                buffer = tensor.contiguous()
                dist.broadcast(buffer, src=0)
                tensor.copy_(buffer)

    def broadcast(self, value: _Value) -> _Value:
        """The ``value`` of rank zero, made of plain data and tensors."""
        values = [value if self.is_rank_zero else None]
        with _peer_errors():
            dist.broadcast_object_list(values, src=0)
        return cast(_Value, values[0])

    def shared_checkpointer(self, checkpointer: Checkpointer | None) -> Checkpointer | None:
        return None if checkpointer is None else _RankZeroCheckpointer(self, checkpointer)

    def _all_gather(self, local: Tensor) -> Tensor:
        """[processes, ...] from tensors that have the same shape in all processes."""
        gathered = local.new_empty((self.size, *local.shape))
        with _peer_errors():
            dist.all_gather(list(gathered), local.contiguous())
        return gathered


class _RankZeroCheckpointer:
    """A checkpointer that rank zero reads for all processes and writes alone."""

    def __init__(self, communicator: DistributedCommunicator, checkpointer: Checkpointer) -> None:
        self._communicator, self._checkpointer = communicator, checkpointer

    def load(self) -> dict[str, Tensor] | None:
        return self._communicator.broadcast(
            self._checkpointer.load() if self._communicator.is_rank_zero else None
        )

    def is_due(self) -> bool:
        return self._communicator.is_rank_zero and self._checkpointer.is_due()

    def save(self, tensors: dict[str, Tensor]) -> None:
        self._checkpointer.save(tensors)


class _AllGatherRows(torch.autograd.Function):
    """All rows of the batch; the backward pass returns the gradient of the own rows."""

    @staticmethod
    def forward(
        ctx: Any,
        share: Tensor,
        total: int,
        rows: int,
        rank: int,
        all_gather: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.own_rows = slice(rank * rows, rank * rows + len(share))
        padded = share.new_zeros((rows, *share.shape[1:]))  # the last shares may be short or empty
        padded[: len(share)] = share
        return all_gather(padded).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gradient[ctx.own_rows], None, None, None, None


def _group_by_dtype(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Convert errors of collective calls.

    Raises:
        PeerUnreachable: another process could not be reached.
    """
    try:
        yield
    except RuntimeError as error:
        raise PeerUnreachable(f"another worker is gone: {first_line(error)}") from error
