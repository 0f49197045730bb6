"""MobileNetV2 for small images (Sandler et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Uniform
from stillhouse.spaces.modules.layers import (
    ConvUnit,
    InvertedResidual,
    initialise,
    pooled_head,
    scale_channels,
)
from stillhouse.spaces.modules.network import Family, Network, Shape
from stillhouse.spaces.modules.state_dict import rename_tensors

# Expansion, channels, blocks and first stride of each stage (table 2). The stem and the second
# stage have stride 1, so that images of 32 pixels end in maps of 4.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNet(Family):
    """MobileNetV2: a stem, seven stages of inverted residual blocks, a 1x1 convolution.

    Block ``stem``, then ``stage<s>_<b>`` for every inverted residual, whose outputs are linear,
    then ``tail``, the convolution to 1280 channels, and ``head``. Images of any size.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mobilenet_v2": {},
        "mobilenet_v2_x0_5": {"width": 0.5},
        "mobilenet_v2_x0_75": {"width": 0.75},
        "mobilenet_v2_x1_4": {"width": 1.4},
    }

    width: float = setting(
        1.0, "multiplies every layer's channels", Choice((0.35, 0.5, 0.75, 1.0, 1.4)), gt=0.0
    )
    dropout: float = setting(
        0.2,
        "share of activations dropped before the linear layer",
        Uniform(0.0, 0.5),
        ge=0.0,
        lt=1.0,
    )

    def build(self, shape: Shape, classes: int) -> Network:
        channels = scale_channels(32, self.width, 8)
        stem = ConvUnit(shape[0], channels, activation=nn.ReLU6)
        blocks: dict[str, nn.Module] = {"stem": stem}
        for name, expansion, base_channels, stride in _iter_residuals():
            outputs = scale_channels(base_channels, self.width, 8)
            blocks[name] = InvertedResidual(channels, outputs, stride, expansion)
            channels = outputs
        features = scale_channels(1280, max(1.0, self.width), 8)
        blocks["tail"] = ConvUnit(channels, features, kernel=1, activation=nn.ReLU6)
        blocks["head"] = pooled_head(features, classes, self.dropout)
        network = Network(blocks)
        initialise(network, linear_std=0.01)
        return network

    def rename_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of torchvision and chenyaofo/pytorch-cifar-models, with the same names."""
        units = list(_iter_residuals())
        modules = {
            "features.0.0": "blocks.stem.conv",
            "features.0.1": "blocks.stem.bn",
            f"features.{len(units) + 1}.0": "blocks.tail.conv",
            f"features.{len(units) + 1}.1": "blocks.tail.bn",
            "classifier.1": "blocks.head.fc",
        }
        for number, (name, expansion, _, _) in enumerate(units, start=1):
            published, own = f"features.{number}.conv", f"blocks.{name}.layers"
            last = 2 if expansion > 1 else 1
            for layer in range(last):
                modules[f"{published}.{layer}.0"] = f"{own}.{layer}.conv"
                modules[f"{published}.{layer}.1"] = f"{own}.{layer}.bn"
            modules[f"{published}.{last}"] = f"{own}.{last}.conv"
            modules[f"{published}.{last + 1}"] = f"{own}.{last}.bn"
        return rename_tensors(state, modules)


def _iter_residuals() -> Iterator[tuple[str, int, int, int]]:
    """Name, expansion, channels and stride of every inverted residual."""
    for stage, (expansion, channels, blocks, first) in enumerate(_STAGES, start=1):
        for block in range(1, blocks + 1):
            yield f"stage{stage}_{block}", expansion, channels, first if block == 1 else 1
