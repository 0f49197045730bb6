"""Layers that several network families and replacement blocks share.

No layer writes into its input, because a method may read a block's output after the next block ran.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shortcut = Literal["A", "B"]
"""How a residual block's input reaches a sum of another shape (He et al. 2016, section 3.3):
``A`` without parameters, subsampled and padded with zero channels; ``B`` by a 1x1 convolution."""


def scale_channels(channels: int, width: float, multiple: int = 1) -> int:
    """``channels * width``, rounded to the nearest multiple, at least one multiple.

    Never more than a tenth below ``channels * width`` (Sandler et al. 2018, reference code).
    """
    target = channels * width
    nearest = max(multiple, int(target + multiple / 2) // multiple * multiple)
    return nearest + multiple if nearest < 0.9 * target else nearest


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, activation: [N, inputs, H, W] -> [N, outputs, H/stride, W/stride].

    Sizes are rounded up. ``bias`` adds a bias to the convolution. Batch norm makes it redundant,
    but some published networks have one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        activation: type[nn.ReLU] | type[nn.ReLU6] | None = nn.ReLU,
    ) -> None:
        padding = kernel // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs))
        if activation is not None:
            layers["activation"] = activation(inplace=True)
        super().__init__(layers)


class ZeroPad(nn.Module):
    """Shortcut A: every ``stride``-th pixel, with channels of zeros around the old ones."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (outputs - inputs) // 2
        self.padding = (0, 0, 0, 0, before, outputs - inputs - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (divided by ``stride``, rounded up)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the basic block of He et al. 2016, figure 2.

    [N, inputs, H, W] -> [N, outputs, H/stride, W/stride], sizes rounded up.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, shortcut: Shortcut = "B"
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _make_shortcut(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))  # type: ignore[no-any-return]


def _make_shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int) -> nn.Module:
    if kind == "A":
        return ZeroPad(inputs, outputs, stride)
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class PreactivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions (Zagoruyko and Komodakis 2016).

    [N, inputs, H, W] -> [N, outputs, H/stride, W/stride], sizes rounded up. Where the shape
    changes, the 1x1 shortcut starts from the activated input. ``dropout`` acts between the
    convolutions.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(outputs, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        y = self.dropout(self.relu(self.bn2(self.conv1(activated))))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(y) + shortcut  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 (Sandler et al. 2018, table 1).

    [N, inputs, H, W] -> [N, outputs, H/stride, W/stride], sizes rounded up; the input is added
    where its shape allows.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 6) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [ConvUnit(inputs, hidden, 1, activation=nn.ReLU6)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            ConvUnit(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6),
            ConvUnit(hidden, outputs, 1, activation=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class GhostModule(nn.Module):
    """One channel in ``ratio`` from a 1x1 convolution, the others from filters of those.

    Han et al. 2020, section 3.1. [N, inputs, H, W] -> [N, outputs, H, W], without activation.
    """

    def __init__(self, inputs: int, outputs: int, ratio: int = 2, kernel: int = 3) -> None:
        super().__init__()
        self.outputs = outputs
        primary_channels = -(-outputs // ratio)
        cheap_channels = primary_channels * (ratio - 1)
        self.primary = ConvUnit(inputs, primary_channels, kernel=1, activation=None)
        self.cheap = ConvUnit(
            primary_channels, cheap_channels, kernel, groups=primary_channels, activation=None
        )

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        both = torch.cat([primary, self.cheap(F.relu(primary))], dim=1)
        return both[:, : self.outputs]


def pooled_head(features: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """The mean over all pixels, then one linear layer: [N, features, H, W] -> [N, classes]."""
    pool = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1)}
    return nn.Sequential(OrderedDict({**pool, **_linear_layers(features, classes, dropout)}))


def linear_head(features: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Dropout if not 0, then one linear layer: [N, features] -> [N, classes]."""
    return nn.Sequential(OrderedDict(_linear_layers(features, classes, dropout)))


def _linear_layers(features: int, classes: int, dropout: float) -> dict[str, nn.Module]:
    dropout_layer: dict[str, nn.Module] = {"dropout": nn.Dropout(dropout)} if dropout else {}
    return {**dropout_layer, "fc": nn.Linear(features, classes)}


def initialise(network: nn.Module, linear_std: float | None = None) -> None:
    """Normal convolutions of variance 2 / fan-out, and zero biases (He et al. 2015).

    Linear layers keep torch's initialisation unless ``linear_std`` is given. Batch norms are the
    identity, as torch initialises them. Modules on the meta device are skipped, because torch
    would load its compiler for them.
    """
    for module in network.modules():
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            continue
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
            nn.init.zeros_(module.bias)
