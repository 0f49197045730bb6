"""VGG networks for small images (Simonyan and Zisserman 2015; this form: Tian et al. 2020)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.modules.layers import ConvUnit, initialise, pooled_head, scale_channels
from stillhouse.spaces.modules.network import Family, Network, Shape
from stillhouse.spaces.modules.state_dict import rename_tensors

_CHANNELS = (64, 128, 256, 512, 512)
# Convolutions in each of the five stages.
_LAYOUTS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(Family):
    """Five stages of 3x3 convolutions with batch norm, and one linear layer over the mean.

    Block ``conv<s>_<i>`` is one convolution; the first of a stage begins with a 2x2 max pooling,
    but not in the fifth when images are below 64 pixels (CRD's maps for CIFAR: 32, 16, 8, 4, 4).
    Images of any size: pooling rounds up, so a map of one pixel stays one.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"vgg{depth}": {"depth": depth} for depth in _LAYOUTS
    }

    depth: Literal[8, 11, 13, 16, 19] = setting(
        8, "layers, as the paper counts them", Choice((8, 11, 13, 16, 19))
    )
    width: float = setting(
        1.0, "multiplies every stage's channels", Choice((0.25, 0.5, 0.75, 1.0, 1.5, 2.0)), gt=0.0
    )

    def build(self, shape: Shape, classes: int) -> Network:
        channels = shape[0]
        stages = (2, 3, 4, 5) if min(shape[1:]) >= 64 else (2, 3, 4)
        blocks: dict[str, nn.Module] = {}
        for stage, (stage_channels, units) in enumerate(
            zip(_CHANNELS, self._convs_per_stage, strict=True), start=1
        ):
            for unit in range(1, units + 1):
                outputs = scale_channels(stage_channels, self.width)
                pool = unit == 1 and stage in stages
                blocks[f"conv{stage}_{unit}"] = _unit(channels, outputs, pool)
                channels = outputs
        blocks["head"] = pooled_head(channels, classes)
        network = Network(blocks)
        initialise(network, linear_std=0.01)
        return network

    @property
    def _convs_per_stage(self) -> tuple[int, ...]:
        return _LAYOUTS[self.depth]

    def rename_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of RepDistiller (with batch norm)."""
        modules = {"classifier": "blocks.head.fc"}
        for stage, units in enumerate(self._convs_per_stage):
            for unit in range(units):
                # RepDistiller numbers convolution, batch norm and ReLU separately.
                published, own = f"block{stage}", f"blocks.conv{stage + 1}_{unit + 1}"
                modules[f"{published}.{3 * unit}"] = f"{own}.conv"
                modules[f"{published}.{3 * unit + 1}"] = f"{own}.bn"
        return rename_tensors(state, modules)


def _unit(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
    unit = ConvUnit(inputs, outputs, bias=True)
    if not pool:
        return unit
    layers = OrderedDict[str, nn.Module](pool=nn.MaxPool2d(2, ceil_mode=True))
    layers.update(unit.named_children())
    return nn.Sequential(layers)
