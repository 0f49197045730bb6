"""LeNet-5 (LeCun et al. 1998), as the data set distillation papers use it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.modules.layers import scale_channels
from stillhouse.spaces.modules.network import Family, Network, Shape, require_min_size


class LeNet(Family):
    """Two 5x5 convolutions with ReLU and 2x2 max pooling, then 120, 84 and ``classes`` units.

    Blocks ``conv1``, ``conv2`` and ``head``. Images below 32 pixels are padded by 2, so that
    28 and 32 both end in maps of 5. The initialisation is Xavier's normal weights and zero biases
    (both Sucholutsky and Schonlau 2021).
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lenet5": {}}

    width: float = setting(
        1.0, "multiplies every layer's units", Choice((0.25, 0.5, 1.0, 2.0, 4.0)), gt=0.0
    )

    def build(self, shape: Shape, classes: int) -> Network:
        require_min_size(shape, 12, "lenet5")
        padding = 2 if min(shape[1:]) < 32 else 0
        first, second, third, fourth = (scale_channels(n, self.width) for n in (6, 16, 120, 84))
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in shape[1:])
        network = Network(
            {
                "conv1": _unit(shape[0], first, padding),
                "conv2": _unit(first, second, 0),
                "head": _head(second * height * width, third, fourth, classes),
            }
        )
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
                nn.init.xavier_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        return network


def _unit(inputs: int, outputs: int, padding: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 5, padding=padding)
    layers = OrderedDict(conv=conv, relu=nn.ReLU(inplace=True), pool=nn.MaxPool2d(2))
    return nn.Sequential(layers)


def _head(features: int, third: int, fourth: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(1),
            fc1=nn.Linear(features, third),
            relu1=nn.ReLU(inplace=True),
            fc2=nn.Linear(third, fourth),
            relu2=nn.ReLU(inplace=True),
            fc=nn.Linear(fourth, classes),
        )
    )
