"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import field_validator
from torch import Tensor, nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Integers, Uniform
from stillhouse.spaces.modules.layers import PreactivationBlock, conv3x3, initialise, pooled_head
from stillhouse.spaces.modules.network import Family, Network, Shape
from stillhouse.spaces.modules.state_dict import rename_tensors

_COMMON_SIZES = ((10, 1), (16, 1), (16, 2), (16, 4), (16, 8), (16, 10), (22, 8), (28, 2), (28, 10))
_DEEP_SIZES = ((40, 1), (40, 2), (40, 4))


class WideResNet(Family):
    """A 3x3 stem and three stages of n pre-activation blocks, 16k, 32k and 64k channels wide.

    ``wrn-d-k`` has depth d = 6n + 4 and width k. Block ``stem``, then ``stage<s>_<b>`` for every
    residual block, whose outputs are not activated, then ``head``, which begins with batch
    norm and ReLU. The second and third stage halve the map. Images of any size.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"wrn-{depth}-{width}": {"depth": depth, "width": width}
        for depth, width in (*_COMMON_SIZES, *_DEEP_SIZES)
    }

    depth: int = setting(16, "layers: 6n + 4 for n blocks a stage", Integers(10, 40, 6), ge=10)
    width: int = setting(1, "multiplies every stage's channels", Integers(1, 10), ge=1)
    dropout: float = setting(
        0.0, "share of activations dropped in a block", Uniform(0.0, 0.4), ge=0.0, lt=1.0
    )

    @field_validator("depth")
    @classmethod
    def _is_6n_plus_4(cls, depth: int) -> int:
        if depth % 6 != 4:
            raise ValueError(f"needs 6n + 4 layers (10, 16, 22, 28, 34, 40, ...), found {depth}")
        return depth

    def build(self, shape: Shape, classes: int) -> Network:
        channels = 16
        blocks: dict[str, nn.Module] = {"stem": conv3x3(shape[0], channels)}
        for stage in (1, 2, 3):
            outputs = 8 * 2**stage * self.width
            for block in range(1, self._blocks_per_stage + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                unit = PreactivationBlock(channels, outputs, stride, self.dropout)
                blocks[f"stage{stage}_{block}"] = unit
                channels = outputs
        blocks["head"] = _head(channels, classes)
        network = Network(blocks)
        initialise(network)
        return network

    @property
    def _blocks_per_stage(self) -> int:
        return (self.depth - 4) // 6

    def rename_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of RepDistiller."""
        modules = {"conv1": "blocks.stem", "bn1": "blocks.head.bn", "fc": "blocks.head.fc"}
        for stage in (1, 2, 3):
            for block in range(self._blocks_per_stage):
                published, own = f"block{stage}.layer.{block}", f"blocks.stage{stage}_{block + 1}"
                modules |= {published: own, f"{published}.convShortcut": f"{own}.shortcut"}
        return rename_tensors(state, modules)


def _head(features: int, classes: int) -> nn.Sequential:
    norm = OrderedDict[str, nn.Module](bn=nn.BatchNorm2d(features), relu=nn.ReLU(inplace=True))
    norm.update(pooled_head(features, classes).named_children())
    return nn.Sequential(norm)
