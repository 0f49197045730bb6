"""Layers over texts: word vectors [N, D, L, 1], L words of D dimensions each.

A text has the shape of an image that is one pixel wide, so code for features [N, C, H, W] also
takes texts. Every layer here can be differentiated twice and mapped by ``torch.func.vmap``
(:class:`LSTM` only if it is not ``fused``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WordConv(nn.Conv1d):
    """A convolution over ``height`` words: [N, D, L, 1] -> [N, ``filters``, L, 1].

    The text is padded with zeros at both ends.
    """

    def __init__(self, dimensions: int, filters: int, height: int) -> None:
        super().__init__(dimensions, filters, height)
        self.text_padding = ((height - 1) // 2, height // 2)

    def forward(self, x: Tensor) -> Tensor:
        # oneDNN needs a half to a third of the time of a two-dimensional convolution.
        return super().forward(F.pad(x.squeeze(3), self.text_padding)).unsqueeze(3)


class WordConvs(nn.Module):
    """Convolutions of several heights side by side, and ReLU: Kim 2014, section 2."""

    def __init__(self, dimensions: int, filters: int, heights: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(WordConv(dimensions, filters, height) for height in heights)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1).relu()


class MaxOverTime(nn.Module):
    """[N, C, L, 1] -> [N, C]: the maximum of each channel over all words."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


class LSTM(nn.LSTM):
    """One bidirectional layer: [N, D, L, 1] -> [N, 2 ``hidden``, L, 1].

    Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000), with torch's gates and
    biases. ``fused`` uses torch's kernel. Otherwise the same function is computed by matrix
    products, one word at a time. This is slower, but ``vmap`` and second derivatives on a GPU
    need it.
    """

    def __init__(self, dimensions: int, hidden: int, fused: bool = True) -> None:
        super().__init__(dimensions, hidden, batch_first=True, bidirectional=True)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        words = x.squeeze(3).transpose(1, 2)
        if self.fused:
            states = super().forward(words)[0]
        else:
            both = (self._run_direction(words, ""), self._run_direction(words, "_reverse"))
            states = torch.cat(both, dim=2)
        return states.transpose(1, 2).unsqueeze(3)

    def _run_direction(self, words: Tensor, suffix: str) -> Tensor:
        """The states [N, L, ``hidden``] of one direction, in the order of the words."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inputs, inner, bias, inner_bias = (getattr(self, f"{n}_l0{suffix}") for n in names)
        gates = F.linear(words, inputs, bias + inner_bias)
        order = range(words.shape[1])
        state = cell = gates.new_zeros(len(words), self.hidden_size)
        states = {}
        for step in reversed(order) if suffix else order:
            activations = gates[:, step] + F.linear(state, inner)
            enter, forget, new, leave = activations.chunk(4, dim=1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            state = leave.sigmoid() * cell.tanh()
            states[step] = state
        return torch.stack([states[step] for step in order], dim=1)


@contextmanager
def without_fused_lstm(network: nn.Module) -> Iterator[None]:
    """Inside the context, every :class:`LSTM` of ``network`` computes by matrix products.

    Torch's kernel does not support ``vmap``. On a GPU it has no second derivative, and no gradient
    in evaluation mode.
    """
    fused = [module for module in network.modules() if isinstance(module, LSTM) and module.fused]
    for module in fused:
        module.fused = False
    try:
        yield
    finally:
        for module in fused:
            module.fused = True
