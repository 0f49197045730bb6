"""The place that a replacement block is built for, and what most kinds are put together from."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.cuts import blank
from stillhouse.spaces.modules.layers import ConvUnit, initialise
from stillhouse.spaces.modules.network import Shape

Stride = tuple[int, int]

_PASSIVE = (nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout)


@dataclass(frozen=True)
class Site:
    """A span of a teacher's blocks, as its replacement meets it.

    ``full`` says whether both ends have all the teacher's channels; ``activated`` whether what
    the replacement should say is never negative, being the output of a ReLU at full width.
    """

    inputs: Shape
    outputs: Shape
    full: bool
    activated: bool

    @classmethod
    def of(cls, span: nn.Sequential, inputs: Shape, outputs: Shape) -> Site:
        """The site of ``span`` between features of these shapes.

        Raises:
            ConfigError: the shapes are not the span's, nor the same with fewer channels.
        """
        convolutions = (m for m in span.modules() if isinstance(m, nn.Conv2d))
        channels = next((c.in_channels for c in convolutions), inputs[0])
        last, activated = _end(span, (channels, *inputs[1:]))
        wide = len(last) == 3 and inputs[0] <= channels and outputs[0] <= last[0]
        if not wide or outputs[1:] != last[1:]:
            raise ConfigError(
                f"these blocks lead from {_shown((channels, *inputs[1:]))} to {_shown(last)}, "
                f"which does not allow a replacement from {_shown(inputs)} to {_shown(outputs)}"
            )
        full = inputs[0] == channels and outputs[0] == last[0]
        return cls(inputs, outputs, full, activated and outputs[0] == last[0])

    @property
    def aligned(self) -> bool:
        """Whether a channel means the same at both ends, so that it may be passed on as it is.

        At a narrower boundary each end has principal channels of its own.
        """
        return self.full and self.inputs == self.outputs

    @property
    def stride(self) -> Stride:
        """The stride, down and across, that leads from one size to the other, rounding up.

        Raises:
            ConfigError: there is none.
        """
        height, width = (
            -(-before // after)
            for before, after in zip(self.inputs[1:], self.outputs[1:], strict=True)
        )
        reached = (-(-self.inputs[1] // height), -(-self.inputs[2] // width))
        if reached != self.outputs[1:]:
            raise ConfigError(
                f"no stride leads from {_shown(self.inputs[1:])} to {_shown(self.outputs[1:])}"
            )
        return height, width

    def require_full(self, kind: str) -> None:
        """Refuse narrower boundaries.

        Raises:
            ConfigError: one of the ends has fewer channels than the teacher.
        """
        if not self.full:
            raise ConfigError(
                f"{kind}: copies of the teacher's blocks need all its channels at both ends, "
                f"found {_shown(self.inputs)} to {_shown(self.outputs)}"
            )


class Unit(nn.Module):
    """A branch beside a shortcut (where there is one), then an activation."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None, activated: bool) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = nn.ReLU() if activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y = y if self.shortcut is None else y + self.shortcut(x)
        return self.activation(y)  # type: ignore[no-any-return]


def stack(
    site: Site,
    depth: int,
    branch: Callable[[int, int, Stride], nn.Module],
    project: bool = False,
) -> nn.Sequential:
    """``depth`` units in a row, freshly initialised; the first leads to the outputs' shape.

    ``branch`` makes a unit's layers, not activated, from input channels, output channels and
    stride. A unit has its input added where channels correspond; ``project`` adds a projection
    of it where they do not. The last unit is activated only if the span's own blocks are.
    """
    units = []
    channels = site.outputs[0]
    for place in range(depth):
        shortcut: nn.Module | None = nn.Identity()
        if place == 0 and not site.aligned:
            shortcut = projection(site) if project else None
        first = (site.inputs[0], channels, site.stride)
        layers = branch(*(first if place == 0 else (channels, channels, (1, 1))))
        units.append(Unit(layers, shortcut, site.activated or place < depth - 1))
    replacement = nn.Sequential(*units)
    initialise(replacement)
    return replacement


def projection(site: Site) -> nn.Sequential:
    """Average pooling to the outputs' size, then a 1x1 convolution with batch norm.

    A strided 1x1 convolution would not look at most of the pixels (He et al. 2019, figure 2c).
    """
    pool = nn.AvgPool2d(site.stride, ceil_mode=True)
    unit = ConvUnit(site.inputs[0], site.outputs[0], kernel=1, activation=None)
    return nn.Sequential(*([] if site.stride == (1, 1) else [pool]), unit)


def trainable(copies: nn.Sequential) -> nn.Sequential:
    """Copies of a frozen teacher's blocks, ready to learn."""
    return copies.requires_grad_(True).train()


def _end(span: nn.Sequential, inputs: Shape) -> tuple[tuple[int, ...], bool]:
    """The shape of the span's output, and whether a ReLU made it; pooling keeps the sign."""
    called: list[nn.Module] = []
    twin = deepcopy(span).eval()
    for module in twin.modules():
        if not list(module.children()) and not isinstance(module, _PASSIVE):
            module.register_forward_hook(lambda layer, *_: called.append(layer))
    with torch.no_grad():
        output = twin(blank(inputs, [twin]))
    return tuple(output.shape[1:]), bool(called) and isinstance(called[-1], nn.ReLU | nn.ReLU6)


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "no map"
