"""Plain convolutional networks of 2 to 10 layers (Mirzadeh et al. 2020, section 4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.modules.layers import ConvUnit, scale_channels
from stillhouse.spaces.modules.network import Family, Network, Shape

# Channels of each convolution; M is a 2x2 max pooling, fc a hidden linear layer.
_LAYOUTS = {
    "cifar10": {
        2: "16 M 16 M",
        4: "16 16 M 32 32 M",
        6: "16 16 M 32 32 M 64 64 M",
        8: "16 16 M 32 32 M 64 64 M 128 128 M fc64",
        10: "32 32 M 64 64 M 128 128 M 256 256 256 256 M fc128",
    },
    "cifar100": {
        2: "32 M 32 M",
        4: "32 32 M 64 64 M",
        6: "32 32 M 64 64 M 128 128",
        8: "32 32 M 64 64 M 128 128 M 256 256 M fc64",
        10: "32 32 M 64 64 M 128 128 M 256 256 256 256 M fc512",
    },
}


class PlainCNN(Family):
    """3x3 convolutions with batch norm and ReLU, some followed by a 2x2 max pooling.

    Block ``conv<i>`` is one convolution with norm, ReLU and pooling; ``head`` the linear layers.
    Images of any size: pooling rounds up, so a map of one pixel stays one.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"cnn{depth}": {"depth": depth} for depth in _LAYOUTS["cifar10"]},
        **{
            f"cnn{depth}_c100": {"depth": depth, "variant": "cifar100"}
            for depth in _LAYOUTS["cifar100"]
        },
    }

    depth: Literal[2, 4, 6, 8, 10] = setting(2, "convolutions", Choice((2, 4, 6, 8, 10)))
    width: float = setting(
        1.0, "multiplies every layer's channels", Choice((0.25, 0.5, 0.75, 1.0, 1.5, 2.0)), gt=0.0
    )
    variant: Literal["cifar10", "cifar100"] = setting(
        "cifar10", "the paper's networks for one or the other", Choice(("cifar10", "cifar100"))
    )

    def build(self, shape: Shape, classes: int) -> Network:
        channels, height, width = shape
        blocks: dict[str, nn.Module] = {}
        hidden = 0
        for token in _LAYOUTS[self.variant][self.depth].split():
            if token == "M":
                blocks[f"conv{len(blocks)}"].add_module("pool", nn.MaxPool2d(2, ceil_mode=True))
                height, width = (height + 1) // 2, (width + 1) // 2
            elif token.startswith("fc"):
                hidden = scale_channels(int(token[2:]), self.width)
            else:
                outputs = scale_channels(int(token), self.width)
                number = len(blocks) + 1
                blocks[f"conv{number}"] = self._convolution(number, channels, outputs)
                channels = outputs
        blocks["head"] = _head(channels * height * width, hidden, classes)
        return Network(blocks)

    def _convolution(self, number: int, inputs: int, outputs: int) -> nn.Sequential:
        """The convolution of this number, from 1, without pooling."""
        return ConvUnit(inputs, outputs, bias=True)


def _head(features: int, hidden: int, classes: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(1))
    if hidden:
        layers["hidden"] = nn.Linear(features, hidden)
        layers["relu"] = nn.ReLU(inplace=True)
    layers["fc"] = nn.Linear(hidden or features, classes)
    return nn.Sequential(layers)
