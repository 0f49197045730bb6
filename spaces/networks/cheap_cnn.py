"""The plain CNNs with cheap convolutions, layer by layer, with equal channels and map sizes."""

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
    """Plain CNNs with depthwise and 1x1 convolutions instead of all convolutions but the first.

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
        if number == 1:  # images have one or three channels, so nothing is saved
            return super()._convolution(number, inputs, outputs)
        if self.convolutions == "ghost":
            return nn.Sequential(GhostModule(inputs, outputs), nn.ReLU(inplace=True))
        return nn.Sequential(
            ConvUnit(inputs, inputs, groups=inputs), ConvUnit(inputs, outputs, kernel=1)
        )
