"""Batch norm over a batch that is spread over several processes.

Each process has some rows x_r [n_r, C, ...] of the batch. Mean and variance of all rows come from
those of each process by the pairwise formula of Chan, Golub and LeVeque 1983, and

    y = weight * (x - mean) / sqrt(var + eps) + bias
    dL/dx = weight / sqrt(var + eps) * (dy - mean(dy) - x^ * mean(dy * x^)),  x^ = normalised x

with both means over the whole batch (Ioffe and Szegedy 2015, section 3). torch's ``SyncBatchNorm``
is for GPUs only. Here the modules of a network do not change: while the mode is on, it replaces
every ``batch_norm`` call in training mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

AllGather = Callable[[Tensor], Tensor]
"""From the tensor [K] of this process to those of all processes, [processes, K]."""


class SyncedBatchNorm(TorchFunctionMode):
    """A mode in which batch norm in training takes its statistics from the rows of all processes.

    All processes run the same network on their rows, of which there may be none.
    """

    def __init__(self, all_gather: AllGather) -> None:
        super().__init__()
        self._all_gather = all_gather

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """``torch.nn.functional.batch_norm`` with its parameters."""
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        count, mean, squares = self._statistics(x.detach())
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean), momentum)
                unbiased = squares / (count - 1).clamp(min=1)
                running_var.lerp_(unbiased.to(running_var), momentum)
        scale = (squares / count + eps).rsqrt()
        normed: Tensor = _Normalise.apply(x, mean, scale, count, self._all_gather)
        if weight is not None:
            normed = normed * _per_channel(x, weight.to(normed))
        return (normed if bias is None else normed + _per_channel(x, bias.to(normed))).to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of all processes: values per channel [], mean [C], summed squared deviations [C]."""
        x = x.to(_accumulation_dtype(x))
        local_count = x.numel() // x.shape[1]
        if local_count:
            var, mean = torch.var_mean(x, _reduced_dims(x), correction=0)
        else:
            var = mean = x.new_zeros(x.shape[1])
        gathered = self._all_gather(
            torch.cat([mean, var * local_count, x.new_full((1,), local_count)])
        )
        means, squares, counts = gathered.tensor_split((len(mean), 2 * len(mean)), dim=1)
        count = counts.sum()
        mean_of_all = (counts * means).sum(0) / count
        return count, mean_of_all, squares.sum(0) + (counts * (means - mean_of_all) ** 2).sum(0)


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale, with mean and scale from the rows of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, count: Tensor, all_gather: AllGather
    ) -> Tensor:
        normed = (x.to(mean.dtype) - _per_channel(x, mean)) * _per_channel(x, scale)
        ctx.save_for_backward(normed, scale, count)
        ctx.exchange, ctx.dtype = all_gather, x.dtype
        return normed

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None]:
        normed, scale, count = ctx.saved_tensors
        sums = torch.cat([dy.sum(_reduced_dims(dy)), (dy * normed).sum(_reduced_dims(dy))])
        mean, correlation = (ctx.exchange(sums).sum(0) / count).chunk(2)
        dx = (dy - _per_channel(dy, mean) - normed * _per_channel(dy, correlation)) * _per_channel(
            dy, scale
        )
        return dx.to(ctx.dtype), None, None, None, None


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    """Half precision has too few digits for sums."""
    return torch.promote_types(x.dtype, torch.float32)


def _reduced_dims(x: Tensor) -> list[int]:
    """All dimensions except the channels."""
    return [i for i in range(x.dim()) if i != 1]


def _per_channel(x: Tensor, channels: Tensor) -> Tensor:
    """One value per channel, in a shape that broadcasts over ``x``."""
    return channels.view(1, -1, *[1] * (x.dim() - 2))
