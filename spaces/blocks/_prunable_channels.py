"""Channels that only a run of blocks itself uses, so that they can be pruned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from stillhouse.spaces.modules.layers import InvertedResidual, PreactivationBlock

_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class PrunableConv:
    """A convolution and the batch norm on its outputs, if there is one."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    def channel_importance(self) -> Tensor:
        """For each output channel, the L1 norm of its filter times its scale in the batch norm."""
        norms = self.conv.weight.detach().abs().sum((1, 2, 3))
        return norms if self.norm is None else norms * self.norm.weight.detach().abs()

    def select_channels(self, indices: Tensor) -> None:
        """Keep only these output channels; for a depthwise convolution also only these inputs."""
        _index_tensors(self.conv, indices, "weight", "bias")
        self.conv.out_channels = len(indices)
        if self.conv.groups > 1:
            self.conv.groups = self.conv.in_channels = len(indices)
        if self.norm is not None:
            _index_tensors(self.norm, indices, "weight", "bias", "running_mean", "running_var")
            self.norm.num_features = len(indices)


@dataclass(frozen=True)
class PrunableChannels:
    """Channels that pass through ``filters`` separately and are the inputs of ``reader`` only."""

    filters: tuple[PrunableConv, ...]
    reader: nn.Conv2d

    def prune(self, count: int) -> None:
        """Keep the ``count`` most important channels, in their present order."""
        importance = torch.stack([f.channel_importance() for f in self.filters]).prod(0)
        indices = importance.topk(count).indices.sort().values
        for layer in self.filters:
            layer.select_channels(indices)
        weight = self.reader.weight.detach().index_select(1, indices)
        self.reader.weight = nn.Parameter(weight)
        self.reader.in_channels = count

    @property
    def count(self) -> int:
        """The number of channels."""
        return self.reader.in_channels


def find_prunable_channels(span: nn.Sequential) -> Iterator[PrunableChannels]:
    """All groups of channels in a run of blocks that can be pruned."""
    for block in span:
        if isinstance(block, PreactivationBlock):
            yield PrunableChannels((PrunableConv(block.conv1, block.bn2),), block.conv2)
        elif isinstance(block, InvertedResidual):
            yield from _in_inverted_residual(block)
        elif hasattr(block, "conv1") and hasattr(block, "bn1"):
            yield from _in_residual_block(block)
    for before, after in pairwise(map(_only_convolution, span)):
        if before is not None and after is not None:
            yield PrunableChannels((before,), after.conv)


def _in_inverted_residual(block: InvertedResidual) -> Iterator[PrunableChannels]:
    """The expanded channels; a block without expansion has none."""
    if len(block.layers) == 3:
        expand, filters, project = (PrunableConv(unit.conv, unit.bn) for unit in block.layers)  # type: ignore[arg-type]
        yield PrunableChannels((expand, filters), project.conv)


def _in_residual_block(block: nn.Module) -> Iterator[PrunableChannels]:
    """Channels between ``conv1``, ``conv2``, ... of residual blocks, also torchvision's."""
    parts = dict(block.named_children())
    layers: list[PrunableConv] = []
    while (conv := parts.get(f"conv{len(layers) + 1}")) is not None:
        norm = parts.get(f"bn{len(layers) + 1}")
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        layers.append(PrunableConv(conv, norm))
    for before, after in pairwise(layers):
        if before.conv.groups == after.conv.groups == 1:
            yield PrunableChannels((before,), after.conv)


def _only_convolution(block: nn.Module) -> PrunableConv | None:
    """The convolution of a block; None if other layers mix or scale channels."""
    layers = [m for m in block.children() if not isinstance(m, _ELEMENTWISE)]
    match layers:
        case [nn.Conv2d(groups=1) as conv]:
            return PrunableConv(conv, None)
        case [nn.Conv2d(groups=1) as conv, nn.BatchNorm2d() as norm]:
            return PrunableConv(conv, norm)
    return None


def _index_tensors(module: nn.Module, indices: Tensor, *names: str) -> None:
    """Keep the entries ``indices`` of each named tensor that is not None."""
    for name in names:
        tensor = getattr(module, name)
        if tensor is not None:
            selected = tensor.detach().index_select(0, indices)
            setattr(
                module, name, nn.Parameter(selected) if name in ("weight", "bias") else selected
            )
