"""Bidirectional LSTMs for texts (Schuster and Paliwal 1997; pooled as Conneau et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Integers, Uniform
from stillhouse.spaces.modules.layers import linear_head
from stillhouse.spaces.modules.network import Family, InputForm, Network, Shape
from stillhouse.spaces.modules.text_layers import LSTM, MaxOverTime


class BiLSTM(Family):
    """Bidirectional LSTM layers, the maximum over time, one linear layer.

    Block ``lstm<i>`` for every layer, whose output is a map with one column for each word;
    ``pool``, which returns [N, 2 hidden]; ``head``. Padding is processed as words with zero
    vectors. So a short ``length`` of the data saves time and helps the backward direction.
    """

    input_form: ClassVar[InputForm] = "text"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bilstm2": {"layers": 2},
        "bilstm_small": {"hidden": 16},
    }

    hidden: int = setting(128, "units of each direction", Choice((8, 16, 32, 64, 128, 256)), ge=1)
    layers: int = setting(1, "LSTMs, each reading the one before", Integers(1, 3), ge=1)
    dropout: float = setting(
        0.5,
        "share of activations dropped before the linear layer",
        Uniform(0.0, 0.7),
        ge=0.0,
        lt=1.0,
    )
    fused: bool = setting(
        True, "torch's own kernel; false: matrix products, for vmap and second derivatives"
    )

    def build(self, shape: Shape, classes: int) -> Network:
        dimensions = shape[0]
        blocks: dict[str, nn.Module] = {}
        for layer in range(1, self.layers + 1):
            blocks[f"lstm{layer}"] = LSTM(dimensions, self.hidden, self.fused)
            dimensions = 2 * self.hidden
        head = linear_head(dimensions, classes, self.dropout)
        return Network({**blocks, "pool": MaxOverTime(), "head": head})
