"""torchvision's networks for ImageNet, as chains of blocks; their published weights load."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import Tensor, nn

from spaces.config import knob
from spaces.domain import Choice
from spaces.network import Family, Network, Shape, require_size
from spaces.problem import ConfigError, unknown
from spaces.weights import renamed

MODELS = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"efficientnet_b{size}" for size in range(8)),
)
_Layout = dict[str, dict[str, nn.Module]]
"""Block name -> {path in torchvision's model: module}, in the order in which they run."""


class Torchvision(Family):
    """A model of torchvision's, number for number; other classes only replace its last layer.

    Block ``stem``; ``stage<s>_<b>`` (ResNet, EfficientNet), ``block<i>`` (MobileNet) or
    ``conv<s>_<i>`` (VGG, the pooling at the start of a stage) for every unit; ``tail`` where a
    1x1 convolution comes last; ``head``. Images have three channels.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"tv_{model}": {"model": model} for model in MODELS
    }
    published_mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    published_std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)

    model: str = knob("resnet18", "torchvision's name of it", Choice(MODELS))

    @field_validator("model")
    @classmethod
    def _is_known(cls, model: str) -> str:
        if model not in MODELS:
            raise ValueError(unknown("torchvision model", model, MODELS))
        return model

    def build(self, shape: Shape, classes: int) -> Network:
        if shape[0] != 3:
            raise ConfigError(f"tv_{self.model} needs images of 3 channels, found {shape[0]}")
        require_size(shape, min(_facts(self.model)["min_size"]), f"tv_{self.model}")
        layout = _layout(_fresh(self.model, classes))
        return Network({name: _block(parts) for name, parts in layout.items()})

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of torchvision: ``ResNet18_Weights`` and the like."""
        with torch.device("meta"):
            layout = _layout(_fresh(self.model, classes=1000))
        modules = {}
        for name, parts in layout.items():
            for path in parts:
                inside = "" if len(parts) == 1 else f".{_child(path)}"
                modules[path] = f"blocks.{name}{inside}"
        return renamed(state, modules)


# Every process reads the sizes of all families, few need torchvision, and importing it takes
# longer than all the rest: hence only here.


def _fresh(model: str, classes: int) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(model, weights=None, num_classes=classes)
    return network


def _facts(model: str) -> Mapping[str, Any]:
    """What torchvision says of the model's published weights."""
    from torchvision.models import get_model_weights

    facts: Mapping[str, Any] = next(iter(get_model_weights(model))).meta
    return facts


def _block(parts: Mapping[str, nn.Module]) -> nn.Module:
    if len(parts) == 1:
        return next(iter(parts.values()))
    return nn.Sequential(OrderedDict((_child(path), part) for path, part in parts.items()))


def _child(path: str) -> str:
    return path.replace(".", "_")


def _layout(model: nn.Module) -> _Layout:
    if hasattr(model, "layer1"):
        layout, last = dict(_resnet(model)), "fc"
    elif isinstance(model.features[0], nn.Conv2d):  # type: ignore[index]
        layout, last = _vgg(model), "classifier"
    else:
        layout, last = dict(_features(model)), "classifier"
    head = layout.setdefault("head", {})
    head["avgpool"] = getattr(model, "avgpool", nn.AdaptiveAvgPool2d(1))
    head["flatten"] = nn.Flatten(1)
    head[last] = getattr(model, last)
    return layout


def _resnet(model: nn.Module) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    yield "stem", {part: getattr(model, part) for part in ("conv1", "bn1", "relu", "maxpool")}
    for stage in (1, 2, 3, 4):
        for index, block in getattr(model, f"layer{stage}").named_children():
            yield f"stage{stage}_{int(index) + 1}", {f"layer{stage}.{index}": block}


def _vgg(model: nn.Module) -> _Layout:
    layout: _Layout = {}
    stage, unit = 1, 0
    opening: dict[str, nn.Module] = {}
    for index, layer in model.features.named_children():  # type: ignore[union-attr]
        path = f"features.{index}"
        if isinstance(layer, nn.MaxPool2d):
            stage, unit, opening = stage + 1, 0, {path: layer}
        elif isinstance(layer, nn.Conv2d):
            unit += 1
            layout[f"conv{stage}_{unit}"] = {**opening, path: layer}
            opening = {}
        else:
            layout[f"conv{stage}_{unit}"][path] = layer
    layout["head"] = opening
    return layout


def _features(model: nn.Module) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    layers: list[nn.Module] = list(model.features)  # type: ignore[arg-type]
    yield "stem", {"features.0": layers[0]}
    for number, layer in enumerate(layers[1:-1], start=1):
        if isinstance(layer, nn.Sequential):
            for index, block in layer.named_children():
                yield f"stage{number}_{int(index) + 1}", {f"features.{number}.{index}": block}
        else:
            yield f"block{number}", {f"features.{number}": layer}
    yield "tail", {f"features.{len(layers) - 1}": layers[-1]}
