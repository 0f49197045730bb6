"""The plain CNNs with cheap convolutions: a layer for a layer, channels and maps as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.modules.layers import ConvUnit, GhostModule
from stillhouse.spaces.networks.plain_cnn import PlainCNN

_DEPTHS = (2, 4, 6, 8, 10)


class CheapCNN(PlainCNN):
    """Plain CNNs, each convolution but the first made of a filter for every channel and 1x1 ones.

    ``separable``: 3x3 filters of the inputs, then a 1x1 convolution that mixes them, each with
    batch norm and ReLU (Howard et al. 2017, section 3.1). ``ghost``: half of the outputs by a 1x1
    convolution, the others by 3x3 filters of those (Han et al. 2020, section 3.1). Blocks are
    named as those of :class:`PlainCNN`.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"separable_cnn{depth}": {"depth": depth} for depth in _DEPTHS},
        **{f"ghost_cnn{depth}": {"depth": depth, "convolutions": "ghost"} for depth in _DEPTHS},
    }

    convolutions: Literal["separable", "ghost"] = setting(
        "separable", "what stands in a convolution's place", Choice(("separable", "ghost"))
    )

    def _convolution(self, number: int, inputs: int, outputs: int) -> nn.Sequential:
        if number == 1:  # one or three channels: nothing to save
            return super()._convolution(number, inputs, outputs)
        if self.convolutions == "ghost":
            return nn.Sequential(GhostModule(inputs, outputs), nn.ReLU(inplace=True))
        return nn.Sequential(
            ConvUnit(inputs, inputs, groups=inputs), ConvUnit(inputs, outputs, kernel=1)
        )
