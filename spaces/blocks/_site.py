"""The site of a replacement block, and the units that most kinds of blocks are built from."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.cuts import blank_input
from stillhouse.spaces.modules.layers import ConvUnit, initialise
from stillhouse.spaces.modules.network import Shape

Stride = tuple[int, int]

_NON_COMPUTING_LAYERS = (nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout)


@dataclass(frozen=True)
class Site:
    """The shapes and properties at the two ends of a span of a teacher's blocks.

    ``is_full_width``: both ends have all the teacher's channels. ``is_activated``: the output is
    that of a ReLU at full width, so it is never negative.
    """

    inputs: Shape
    outputs: Shape
    is_full_width: bool
    is_activated: bool

    @classmethod
    def from_span(cls, span: nn.Sequential, inputs: Shape, outputs: Shape) -> Site:
        """The site of ``span`` between features of these shapes.

        Raises:
            ConfigError: the shapes are neither those of the span nor the same with fewer channels.
        """
        convolutions = (m for m in span.modules() if isinstance(m, nn.Conv2d))
        channels = next((c.in_channels for c in convolutions), inputs[0])
        output_shape, activated = _trace_output(span, (channels, *inputs[1:]))
        fits_width = (
            len(output_shape) == 3 and inputs[0] <= channels and outputs[0] <= output_shape[0]
        )
        if not fits_width or outputs[1:] != output_shape[1:]:
            raise ConfigError(
                f"these blocks lead from {_format_shape((channels, *inputs[1:]))} "
                f"to {_format_shape(output_shape)}, which does not allow a replacement "
                f"from {_format_shape(inputs)} to {_format_shape(outputs)}"
            )
        full = inputs[0] == channels and outputs[0] == output_shape[0]
        return cls(inputs, outputs, full, activated and outputs[0] == output_shape[0])

    @property
    def is_aligned(self) -> bool:
        """Whether the channels correspond at both ends, so that a shortcut may be the identity.

        At a narrower boundary each end has its own principal channels.
        """
        return self.is_full_width and self.inputs == self.outputs

    @property
    def stride(self) -> Stride:
        """The vertical and horizontal stride between the two sizes, which are rounded up.

        Raises:
            ConfigError: no stride leads from one size to the other.
        """
        height, width = (
            -(-before // after)
            for before, after in zip(self.inputs[1:], self.outputs[1:], strict=True)
        )
        output_size = (-(-self.inputs[1] // height), -(-self.inputs[2] // width))
        if output_size != self.outputs[1:]:
            raise ConfigError(
                f"no stride leads from {_format_shape(self.inputs[1:])} "
                f"to {_format_shape(self.outputs[1:])}"
            )
        return height, width

    def require_full(self, kind: str) -> None:
        """Refuse narrower boundaries.

        Raises:
            ConfigError: one of the ends has fewer channels than the teacher.
        """
        if not self.is_full_width:
            raise ConfigError(
                f"{kind}: copies of the teacher's blocks need all its channels at both ends, "
                f"found {_format_shape(self.inputs)} to {_format_shape(self.outputs)}"
            )


class BranchUnit(nn.Module):
    """The sum of a branch and a shortcut (if there is one), then an activation."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None, activated: bool) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = nn.ReLU() if activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y = y if self.shortcut is None else y + self.shortcut(x)
        return self.activation(y)  # type: ignore[no-any-return]


def stack_units(
    site: Site,
    depth: int,
    branch: Callable[[int, int, Stride], nn.Module],
    project: bool = False,
) -> nn.Sequential:
    """``depth`` newly initialised units in a row; the first changes the shape to the outputs'.

    ``branch`` makes a unit's layers, without activation, from input channels, output channels and
    stride. A unit adds its input where channels correspond; elsewhere it adds a projection of the
    input if ``project``. The last unit has an activation only if the span ends in one.
    """
    units = []
    channels = site.outputs[0]
    for index in range(depth):
        shortcut: nn.Module | None = nn.Identity()
        if index == 0 and not site.is_aligned:
            shortcut = projection(site) if project else None
        first_arguments = (site.inputs[0], channels, site.stride)
        layers = branch(*(first_arguments if index == 0 else (channels, channels, (1, 1))))
        units.append(BranchUnit(layers, shortcut, site.is_activated or index < depth - 1))
    replacement = nn.Sequential(*units)
    initialise(replacement)
    return replacement


def projection(site: Site) -> nn.Sequential:
    """Average pooling to the outputs' size, then a 1x1 convolution with batch norm.

    A strided 1x1 convolution would skip most of the pixels (He et al. 2019, figure 2c).
    """
    pool = nn.AvgPool2d(site.stride, ceil_mode=True)
    unit = ConvUnit(site.inputs[0], site.outputs[0], kernel=1, activation=None)
    return nn.Sequential(*([] if site.stride == (1, 1) else [pool]), unit)


def make_trainable(copies: nn.Sequential) -> nn.Sequential:
    """Copies of a frozen teacher's blocks, with gradients and in training mode."""
    return copies.requires_grad_(True).train()


def _trace_output(span: nn.Sequential, inputs: Shape) -> tuple[tuple[int, ...], bool]:
    """The shape of the span's output, and whether its last computing layer is a ReLU."""
    executed: list[nn.Module] = []
    copy = deepcopy(span).eval()
    for module in copy.modules():
        if not list(module.children()) and not isinstance(module, _NON_COMPUTING_LAYERS):
            module.register_forward_hook(lambda layer, *_: executed.append(layer))
    with torch.no_grad():
        output = copy(blank_input(inputs, [copy]))
    return tuple(output.shape[1:]), bool(executed) and isinstance(executed[-1], nn.ReLU | nn.ReLU6)


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "no map"
