"""Convolutional networks for texts (Kim 2014, "Convolutional neural networks for sentence
classification"), as the data set distillation papers use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import field_validator

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Uniform
from stillhouse.spaces.modules.layers import linear_head
from stillhouse.spaces.modules.network import Family, InputForm, Network, Shape
from stillhouse.spaces.modules.text_layers import MaxOverTime, WordConvs


class TextCNN(Family):
    """Convolutions of heights 3, 4 and 5 side by side, the maximum over time, one linear layer.

    Block ``convs``, whose output is a map with one column for each word; ``pool``, which returns
    [N, channels]; ``head``. Texts of any length: both ends are padded with zeros.
    """

    input_form: ClassVar[InputForm] = "text"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_cnn_small": {"filters": 8},
        "text_cnn_wide": {"filters": 300},
    }

    filters: int = setting(100, "filters of each height", Choice((4, 8, 16, 50, 100, 300)), ge=1)
    heights: tuple[int, ...] = setting((3, 4, 5), "words that a filter of each kind covers")
    dropout: float = setting(
        0.5,
        "share of activations dropped before the linear layer",
        Uniform(0.0, 0.7),
        ge=0.0,
        lt=1.0,
    )

    @field_validator("heights")
    @classmethod
    def _each_once(cls, heights: tuple[int, ...]) -> tuple[int, ...]:
        if not heights or min(heights) < 1 or len(set(heights)) < len(heights):
            raise ValueError(f"needs a height or more from 1 up, each once, found {list(heights)}")
        return heights

    def build(self, shape: Shape, classes: int) -> Network:
        head = linear_head(self.filters * len(self.heights), classes, self.dropout)
        convs = WordConvs(shape[0], self.filters, self.heights)
        return Network({"convs": convs, "pool": MaxOverTime(), "head": head})
