"""torchvision's networks for ImageNet, as chains of blocks; their published weights load."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import Tensor, nn

from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.config.problems import ConfigError, unknown_message
from stillhouse.spaces.modules.network import Family, Network, Shape, require_min_size
from stillhouse.spaces.modules.state_dict import rename_tensors
from stillhouse.spaces.networks._torchvision_blocks import (
    new_model,
    split_into_blocks,
    weights_metadata,
)

MODELS = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"efficientnet_b{size}" for size in range(8)),
)


class Torchvision(Family):
    """A torchvision model with equal outputs; only the last layer depends on the classes.

    Block ``stem``; ``stage<s>_<b>`` (ResNet, EfficientNet), ``block<i>`` (MobileNet) or
    ``conv<s>_<i>`` (VGG, the pooling at the start of a stage) for every unit; ``tail`` where a
    1x1 convolution comes last; ``head``. Images have three channels.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"tv_{model}": {"model": model} for model in MODELS
    }
    published_mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    published_std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)

    model: str = setting("resnet18", "torchvision's name of it", Choice(MODELS))

    @field_validator("model")
    @classmethod
    def _is_known(cls, model: str) -> str:
        if model not in MODELS:
            raise ValueError(unknown_message("torchvision model", model, MODELS))
        return model

    def build(self, shape: Shape, classes: int) -> Network:
        if shape[0] != 3:
            raise ConfigError(f"tv_{self.model} needs images of 3 channels, found {shape[0]}")
        require_min_size(shape, min(weights_metadata(self.model)["min_size"]), f"tv_{self.model}")
        layout = split_into_blocks(new_model(self.model, classes))
        return Network({name: _make_block(parts) for name, parts in layout.items()})

    def rename_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of torchvision, such as ``ResNet18_Weights``."""
        with torch.device("meta"):
            layout = split_into_blocks(new_model(self.model, classes=1000))
        modules = {}
        for name, parts in layout.items():
            for path in parts:
                suffix = "" if len(parts) == 1 else f".{_child_name(path)}"
                modules[path] = f"blocks.{name}{suffix}"
        return rename_tensors(state, modules)


def _make_block(parts: Mapping[str, nn.Module]) -> nn.Module:
    if len(parts) == 1:
        return next(iter(parts.values()))
    return nn.Sequential(OrderedDict((_child_name(path), part) for path, part in parts.items()))


def _child_name(path: str) -> str:
    return path.replace(".", "_")
