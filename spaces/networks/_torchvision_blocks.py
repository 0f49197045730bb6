"""Splits a torchvision model into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

Layout = dict[str, dict[str, nn.Module]]
"""Block name -> {path in torchvision's model: module}, in the order in which they run."""

# torchvision is imported in functions: every process reads the sizes of all families, but few
# need torchvision, and its import takes longer than all others.


def new_model(model: str, classes: int) -> nn.Module:
    """A torchvision model with torchvision's initialisation."""
    from torchvision.models import get_model

    network: nn.Module = get_model(model, weights=None, num_classes=classes)
    return network


def weights_metadata(model: str) -> Mapping[str, Any]:
    """torchvision's metadata of the model's published weights."""
    from torchvision.models import get_model_weights

    metadata: Mapping[str, Any] = next(iter(get_model_weights(model))).meta
    return metadata


def split_into_blocks(model: nn.Module) -> Layout:
    """All modules of a model, by block."""
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


def _vgg(model: nn.Module) -> Layout:
    layout: Layout = {}
    stage, unit = 1, 0
    pooling: dict[str, nn.Module] = {}
    for index, layer in model.features.named_children():  # type: ignore[union-attr]
        path = f"features.{index}"
        if isinstance(layer, nn.MaxPool2d):
            stage, unit, pooling = stage + 1, 0, {path: layer}
        elif isinstance(layer, nn.Conv2d):
            unit += 1
            layout[f"conv{stage}_{unit}"] = {**pooling, path: layer}
            pooling = {}
        else:
            layout[f"conv{stage}_{unit}"][path] = layer
    layout["head"] = pooling
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
