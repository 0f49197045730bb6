"""Layers over texts: word vectors [N, D, L, 1], L words of D dimensions each.

A text has the form of an image that is one pixel wide, so all that reads features [N, C, H, W]
reads a text's. Every layer here can be differentiated twice, and mapped by ``torch.func.vmap``
(an :class:`LSTM` if it is not ``fused``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WordConv(nn.Conv1d):
    """A convolution over ``height`` words: [N, D, L, 1] -> [N, ``filters``, L, 1].

    Zeros stand before and behind the text, as its padding does.
    """

    def __init__(self, dimensions: int, filters: int, height: int) -> None:
        super().__init__(dimensions, filters, height)
        self.text_padding = ((height - 1) // 2, height // 2)

    def forward(self, x: Tensor) -> Tensor:
        # In one dimension oneDNN takes a half to a third of the time that it takes in two.
        return super().forward(F.pad(x.squeeze(3), self.text_padding)).unsqueeze(3)


class WordConvs(nn.Module):
    """Convolutions of several heights side by side, and ReLU: Kim 2014, section 2."""

    def __init__(self, dimensions: int, filters: int, heights: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(WordConv(dimensions, filters, height) for height in heights)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1).relu()


class MaxOverTime(nn.Module):
    """[N, C, L, 1] -> [N, C]: of every channel the largest value among all words."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


class LSTM(nn.LSTM):
    """One bidirectional layer: [N, D, L, 1] -> [N, 2 ``hidden``, L, 1].

    Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000), as torch counts gates
    and biases. ``fused`` runs torch's own kernel; without, the same weights work by matrix
    products, a step at a time: slower, and the form that ``vmap`` takes and that can be
    differentiated twice on a GPU as well.
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
        """[N, L, ``hidden``]: the states of one direction, in the order of the words."""
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
    """Within this, every :class:`LSTM` inside works by matrix products: the same function.

    Torch's own kernel has no second derivative on a GPU, no ``vmap``, and on a GPU no gradient in
    eval mode.
    """
    fused = [module for module in network.modules() if isinstance(module, LSTM) and module.fused]
    for module in fused:
        module.fused = False
    try:
        yield
    finally:
        for module in fused:
            module.fused = True
