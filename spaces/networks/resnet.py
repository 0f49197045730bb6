"""Residual networks for small images (He et al. 2016, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import field_validator
from torch import Tensor, nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Integers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.layers import (
    ConvUnit,
    ResidualBlock,
    Shortcut,
    initialise,
    pooled_head,
    scale_channels,
)
from stillhouse.spaces.modules.network import Family, Network, Shape
from stillhouse.spaces.modules.state_dict import rename_tensors

_WIDE = {"width": 4.0, "stem": 32}


class ResNet(Family):
    """A 3x3 stem and three stages of n basic blocks, 16, 32 and 64 channels wide; depth 6n + 2.

    Block ``stem``, then ``stage<s>_<b>`` for every residual block, then ``head``; the second and
    third stage halve the map. Images of any size. ``resnet8x4`` and ``resnet32x4`` are those of
    Tian et al. 2020 (CRD).
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 26, 32, 44, 56, 110)},
        "resnet8x4": {"depth": 8, **_WIDE},
        "resnet32x4": {"depth": 32, **_WIDE},
    }

    depth: int = setting(20, "layers: 6n + 2 for n blocks a stage", Integers(8, 110, 6), ge=8)
    width: float = setting(
        1.0, "multiplies every stage's channels", Choice((0.25, 0.5, 0.75, 1.0, 2.0, 4.0)), gt=0.0
    )
    stem: int | None = setting(None, "channels of the stem; none means as the first stage", ge=1)
    shortcut: Shortcut = setting(
        "B", "where the shape changes: A pads with zeros, B projects", Choice(("A", "B"))
    )

    @field_validator("depth")
    @classmethod
    def _is_6n_plus_2(cls, depth: int) -> int:
        if depth % 6 != 2:
            raise ValueError(f"needs 6n + 2 layers (8, 14, 20, 26, 32, ...), found {depth}")
        return depth

    def build(self, shape: Shape, classes: int) -> Network:
        stages = [scale_channels(channels, self.width) for channels in (16, 32, 64)]
        channels = self.stem or stages[0]
        if self.shortcut == "A" and channels > stages[0]:
            raise ConfigError(
                f"shortcut A can only add channels: stem needs at most {stages[0]}, "
                f"found {channels}; or use shortcut B"
            )
        blocks: dict[str, nn.Module] = {"stem": ConvUnit(shape[0], channels)}
        for stage, outputs in enumerate(stages, start=1):
            for block in range(1, self._blocks_per_stage + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                unit = ResidualBlock(channels, outputs, stride, self.shortcut)
                blocks[f"stage{stage}_{block}"] = unit
                channels = outputs
        blocks["head"] = pooled_head(channels, classes)
        network = Network(blocks)
        initialise(network)
        return network

    @property
    def _blocks_per_stage(self) -> int:
        return (self.depth - 2) // 6

    def rename_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of akamaster/pytorch_resnet_cifar10, RepDistiller and chenyaofo/pytorch-cifar-models.

        The first expect the normalisation of ImageNet, the others that of CIFAR.
        """
        modules = {
            "conv1": "blocks.stem.conv",
            "bn1": "blocks.stem.bn",
            "linear": "blocks.head.fc",
            "fc": "blocks.head.fc",
        }
        for stage in (1, 2, 3):
            for block in range(self._blocks_per_stage):
                published, own = f"layer{stage}.{block}", f"blocks.stage{stage}_{block + 1}"
                modules |= {published: own, f"{published}.downsample": f"{own}.shortcut"}
        return rename_tensors(state, modules)
