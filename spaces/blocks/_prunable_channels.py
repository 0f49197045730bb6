"""Channels that live inside a run of blocks only, where they can be pruned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from stillhouse.spaces.modules.layers import InvertedResidual, PreactivationBlock

_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Filter:
    """A convolution and the batch norm (where there is one) that scales its outputs."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    def importance(self) -> Tensor:
        """Of each output channel: the L1 norm of its filter, times its scale in the batch norm."""
        norms = self.conv.weight.detach().abs().sum((1, 2, 3))
        return norms if self.norm is None else norms * self.norm.weight.detach().abs()

    def keep(self, chosen: Tensor) -> None:
        """Only these output channels; of a depthwise convolution also only these inputs."""
        _select(self.conv, chosen, "weight", "bias")
        self.conv.out_channels = len(chosen)
        if self.conv.groups > 1:
            self.conv.groups = self.conv.in_channels = len(chosen)
        if self.norm is not None:
            _select(self.norm, chosen, "weight", "bias", "running_mean", "running_var")
            self.norm.num_features = len(chosen)


@dataclass(frozen=True)
class Joint:
    """Channels that pass through ``filters`` one by one, and are read by ``reader`` alone."""

    filters: tuple[Filter, ...]
    reader: nn.Conv2d

    def prune(self, count: int) -> None:
        """Keep the ``count`` most important channels, in their old order."""
        importance = torch.stack([f.importance() for f in self.filters]).prod(0)
        chosen = importance.topk(count).indices.sort().values
        for step in self.filters:
            step.keep(chosen)
        kept = self.reader.weight.detach().index_select(1, chosen)
        self.reader.weight = nn.Parameter(kept)
        self.reader.in_channels = count

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.reader.in_channels


def joints(span: nn.Sequential) -> Iterator[Joint]:
    """Every place in a run of blocks where channels can be pruned."""
    for block in span:
        if isinstance(block, PreactivationBlock):
            yield Joint((Filter(block.conv1, block.bn2),), block.conv2)
        elif isinstance(block, InvertedResidual):
            yield from _expanded(block)
        elif hasattr(block, "conv1") and hasattr(block, "bn1"):
            yield from _numbered(block)
    for before, after in pairwise(map(_single, span)):
        if before is not None and after is not None:
            yield Joint((before,), after.conv)


def _expanded(block: InvertedResidual) -> Iterator[Joint]:
    """The expanded channels; without an expansion they are the block's input."""
    if len(block.layers) == 3:
        expand, filters, project = (Filter(unit.conv, unit.bn) for unit in block.layers)  # type: ignore[arg-type]
        yield Joint((expand, filters), project.conv)


def _numbered(block: nn.Module) -> Iterator[Joint]:
    """Between ``conv1``, ``bn1``, ``conv2``, ... of residual blocks, torchvision's as well."""
    parts = dict(block.named_children())
    chain: list[Filter] = []
    while (conv := parts.get(f"conv{len(chain) + 1}")) is not None:
        norm = parts.get(f"bn{len(chain) + 1}")
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        chain.append(Filter(conv, norm))
    for before, after in pairwise(chain):
        if before.conv.groups == after.conv.groups == 1:
            yield Joint((before,), after.conv)


def _single(block: nn.Module) -> Filter | None:
    """The only convolution of a block that does nothing else to whole channels."""
    layers = [m for m in block.children() if not isinstance(m, _ELEMENTWISE)]
    match layers:
        case [nn.Conv2d(groups=1) as conv]:
            return Filter(conv, None)
        case [nn.Conv2d(groups=1) as conv, nn.BatchNorm2d() as norm]:
            return Filter(conv, norm)
    return None


def _select(module: nn.Module, chosen: Tensor, *names: str) -> None:
    """Keep the chosen entries of each tensor that the module has."""
    for name in names:
        tensor = getattr(module, name)
        if tensor is not None:
            kept = tensor.detach().index_select(0, chosen)
            setattr(module, name, nn.Parameter(kept) if name in ("weight", "bias") else kept)
