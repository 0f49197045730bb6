"""Assembly: a network put together from a teacher's ends and replacements between its cuts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from stillhouse.methods.core.runtime.folding import fused
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.compression.layer_sizes import keep_zeros, trim
from stillhouse.spaces.compression.quantisation import put_layers
from stillhouse.spaces.modules.cuts import narrowed, positions
from stillhouse.spaces.modules.heads import with_linear_heads
from stillhouse.spaces.modules.layers import initialise
from stillhouse.spaces.modules.network import Network, Shape
from stillhouse.spaces.modules.pca import Narrow, Widen
from stillhouse.spaces.network_spec import NetworkSpec


@dataclass(frozen=True)
class Piece:
    """A replacement for blocks ``start`` .. ``stop`` - 1; ``enter`` and ``leave`` are the shares
    of the teacher's channels at its ends."""

    start: int
    stop: int
    block: BlockSpec
    enter: float = 1.0
    leave: float = 1.0

    @property
    def label(self) -> str:
        """``3-5 ghost``: where it goes and what it is; the widths as well where it is narrow."""
        narrow = self.enter < 1.0 or self.leave < 1.0
        widths = f" {self.enter:g}-{self.leave:g}" if narrow else ""
        return f"{self.start}-{self.stop} {self.block.label}{widths}"

    def build(self, teacher: Network, at: Mapping[int, Shape]) -> nn.Module:
        """The replacement, before it has learnt anything.

        Args:
            at: the teacher's :func:`stillhouse.spaces.modules.cuts.positions`.

        Raises:
            ConfigError: this kind of block does not fit there.
        """
        inputs, outputs = narrowed(at[self.start], self.enter), narrowed(at[self.stop], self.leave)
        return self.block.build(teacher.span(self.start, self.stop), inputs, outputs)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        ends = {"start": self.start, "stop": self.stop, "enter": self.enter, "leave": self.leave}
        return {**ends, "block": self.block.plain()}

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Piece:
        """From :meth:`plain`."""
        block = BlockSpec.parse(data["block"])
        return cls(data["start"], data["stop"], block, data["enter"], data["leave"])


def assembled(
    teacher: Network, shape: Shape, pieces: Sequence[Piece], modules: Sequence[nn.Module] = ()
) -> Network:
    """The teacher's stem, the pieces in order, the teacher's head.

    Args:
        teacher: gives stem and head, which are shared, and what ``pieces`` are built from.
        modules: the pieces as they have learnt; built anew, for weights to be loaded, without.

    Returns:
        Blocks are named after the teacher's: a piece of one block as that, a longer one as
        ``<first>_to_<last>``. Where the first or last width is narrow, the stem ends in a fixed
        :class:`Narrow` and the head begins with a :class:`Widen`, both empty without ``modules``.
    """
    names, at = teacher.names, positions(teacher, shape)
    made = list(modules) or [piece.build(teacher, at) for piece in pieces]
    blocks: dict[str, nn.Module] = {names[0]: stem(teacher, at, pieces[0].enter)}
    for piece, module in zip(pieces, made, strict=True):
        blocks[_name(names, piece)] = module
    last = max(at)
    blocks[names[last]] = head(teacher, at, pieces[-1].leave)
    blocks.update({name: teacher.blocks[name] for name in names[last + 1 :]})
    network = Network(blocks)
    mean, std = teacher.mean.flatten().tolist(), teacher.std.flatten().tolist()
    return network.normalised_with(mean, std)


def stem(teacher: Network, at: Mapping[int, Shape], width: float) -> nn.Module:
    """A teacher's first block, projected onto a share of its channels."""
    block, channels = teacher.blocks[teacher.names[0]], at[min(at)][0]
    kept = narrowed(at[min(at)], width)[0]
    return nn.Sequential(block, Narrow.empty(kept, channels)) if width < 1.0 else block


def head(teacher: Network, at: Mapping[int, Shape], width: float) -> nn.Module:
    """A teacher's head behind the projection from a share of the channels.

    What may follow it sums subclasses up, and neither learns nor costs anything.
    """
    block, channels = teacher.blocks[teacher.names[max(at)]], at[max(at)][0]
    kept = narrowed(at[max(at)], width)[0]
    return nn.Sequential(Widen.empty(kept, channels), block) if width < 1.0 else block


def _name(names: Sequence[str], piece: Piece) -> str:
    first, last = names[piece.start], names[piece.stop - 1]
    return first if first == last else f"{first}_to_{last}"


def rebuild(artifact: Artifact) -> Network:
    """The network that a stage left in the library, in eval mode on the CPU."""
    network = _structure(artifact)
    network.load_state_dict(dict(artifact.tensors))
    return network.eval()


def anew(artifact: Artifact) -> Network:
    """The same architecture with weights from torch's global generator: nothing learnt is in it.

    All convolutions start as those of a new network do, also where a piece would take over some
    of its teacher's. What no training changes is part of the architecture and stays: the images'
    normalisation, and the projections onto a teacher's principal channels.
    """
    network = _structure(artifact)
    initialise(network)
    for name, module in network.named_modules():
        if isinstance(module, Narrow):
            fixed = {part: artifact.tensors[f"{name}.{part}"] for part in module.state_dict()}
            module.load_state_dict(fixed)
    return network.eval()


def _structure(artifact: Artifact) -> Network:
    """A stage's network with its normalisation, before it has learnt anything."""
    facts = artifact.record.facts
    channels, height, width = facts["data"]["shape"]
    shape, classes = (channels, height, width), facts["data"]["classes"]
    told = described(artifact)
    network = NetworkSpec.parse(told["teacher"]).build(shape, classes)
    if told["pieces"]:
        network = assembled(network, shape, [Piece.parse(piece) for piece in told["pieces"]])
    quantised = told.get("quantised")
    if quantised:
        network = fused(network.eval(), quantised["folded"])
    if told.get("trimmed"):
        trim(network, told["trimmed"])
    if quantised:
        put_layers(network, quantised["bits"], quantised["leaving"])
    if told.get("sparse"):
        keep_zeros(network)
    if told.get("heads"):
        network = with_linear_heads(network, shape, classes, told["heads"])
    mean = artifact.tensors["mean"].flatten().tolist()
    return network.normalised_with(mean, artifact.tensors["std"].flatten().tolist())


def described(artifact: Artifact) -> dict[str, Any]:
    """A network's structure as plain data: the named network, the pieces put into it, and where
    there are some the blocks with ``heads``, layers ``trimmed`` to other sizes, whether its
    zeros are to stay (``sparse``), and the ``bits`` of its weights with the blocks that were
    ``folded`` for it and the layers with a rounding of what is ``leaving`` (``quantised``)."""
    told: dict[str, Any] = artifact.record.facts.get("assembly") or {
        "teacher": specified(artifact).plain(),
        "pieces": [],
    }
    return told


def specified(artifact: Artifact) -> NetworkSpec:
    """The named network that a ``train`` stage made."""
    told = artifact.record.identity["work"]["network"]
    return NetworkSpec.parse({k: v for k, v in told.items() if k != "version"})


@lru_cache(maxsize=8)
def outline(spec: str, shape: Shape, classes: int) -> tuple[Network, Mapping[int, Shape]]:
    """A network's sketch, and where it may be cut; ``spec`` is a network's JSON."""
    network = NetworkSpec.parse(json.loads(spec)).sketch(shape, classes)
    return network, positions(network, shape)
