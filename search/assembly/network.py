"""Assembly: a network put together from a teacher's ends and replacements between its cuts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from stillhouse.methods.core.runtime.folding import fuse_blocks
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.description import NetworkDescription
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.compression.layer_sizes import freeze_zero_weights, resize_layers
from stillhouse.spaces.compression.quantisation import insert_quantised_layers
from stillhouse.spaces.modules.cuts import cut_positions, narrowed_shape
from stillhouse.spaces.modules.heads import with_linear_heads
from stillhouse.spaces.modules.layers import initialise
from stillhouse.spaces.modules.network import Network, Shape
from stillhouse.spaces.modules.pca import PCAExpand, PCAProject
from stillhouse.spaces.network_spec import NetworkSpec


@dataclass(frozen=True)
class BlockReplacement:
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
        is_narrow = self.enter < 1.0 or self.leave < 1.0
        widths = f" {self.enter:g}-{self.leave:g}" if is_narrow else ""
        return f"{self.start}-{self.stop} {self.block.label}{widths}"

    def build(self, teacher: Network, cut_shapes: Mapping[int, Shape]) -> nn.Module:
        """The replacement, before it has learnt anything.

        Args:
            at: the teacher's :func:`stillhouse.spaces.modules.cuts.cut_positions`.

        Raises:
            ConfigError: this kind of block does not fit there.
        """
        input_shape, output_shape = (
            narrowed_shape(cut_shapes[self.start], self.enter),
            narrowed_shape(cut_shapes[self.stop], self.leave),
        )
        return self.block.build(teacher.span(self.start, self.stop), input_shape, output_shape)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        cut_fields = {
            "start": self.start,
            "stop": self.stop,
            "enter": self.enter,
            "leave": self.leave,
        }
        return {**cut_fields, "block": self.block.plain()}

    @classmethod
    def parse(cls, data: dict[str, Any]) -> BlockReplacement:
        """From :meth:`plain`."""
        block = BlockSpec.parse(data["block"])
        return cls(data["start"], data["stop"], block, data["enter"], data["leave"])


def assemble_network(
    teacher: Network,
    shape: Shape,
    replacements: Sequence[BlockReplacement],
    modules: Sequence[nn.Module] = (),
) -> Network:
    """The teacher's stem, the pieces in order, the teacher's head.

    Args:
        teacher: gives stem and head, which are shared, and what ``replacements`` are built from.
        modules: the pieces as they have learnt; built anew, for weights to be loaded, without.

    Returns:
        Blocks are named after the teacher's: a piece of one block as that, a longer one as
        ``<first>_to_<last>``. Where the first or last width is narrow, the stem ends in a fixed
        :class:`PCAProject` and the head begins with a :class:`PCAExpand`, both empty without
        ``modules``.
    """
    names, cut_shapes = teacher.names, cut_positions(teacher, shape)
    built_modules = list(modules) or [
        replacement.build(teacher, cut_shapes) for replacement in replacements
    ]
    blocks: dict[str, nn.Module] = {
        names[0]: stem_module(teacher, cut_shapes, replacements[0].enter)
    }
    for replacement, module in zip(replacements, built_modules, strict=True):
        blocks[_block_name(names, replacement)] = module
    last = max(cut_shapes)
    blocks[names[last]] = head_module(teacher, cut_shapes, replacements[-1].leave)
    blocks.update({name: teacher.blocks[name] for name in names[last + 1 :]})
    network = Network(blocks)
    mean, std = teacher.mean.flatten().tolist(), teacher.std.flatten().tolist()
    return network.with_normalisation(mean, std)


def stem_module(teacher: Network, cut_shapes: Mapping[int, Shape], width: float) -> nn.Module:
    """A teacher's first block, projected onto a share of its channels."""
    block, channels = teacher.blocks[teacher.names[0]], cut_shapes[min(cut_shapes)][0]
    num_kept = narrowed_shape(cut_shapes[min(cut_shapes)], width)[0]
    return nn.Sequential(block, PCAProject.empty(num_kept, channels)) if width < 1.0 else block


def head_module(teacher: Network, cut_shapes: Mapping[int, Shape], width: float) -> nn.Module:
    """A teacher's head behind the projection from a share of the channels.

    What may follow it sums subclasses up, and neither learns nor costs anything.
    """
    block, channels = teacher.blocks[teacher.names[max(cut_shapes)]], cut_shapes[max(cut_shapes)][0]
    num_kept = narrowed_shape(cut_shapes[max(cut_shapes)], width)[0]
    return nn.Sequential(PCAExpand.empty(num_kept, channels), block) if width < 1.0 else block


def _block_name(names: Sequence[str], replacement: BlockReplacement) -> str:
    first, last = names[replacement.start], names[replacement.stop - 1]
    return first if first == last else f"{first}_to_{last}"


def load_network(artifact: Artifact) -> Network:
    """The network that a stage left in the library, in eval mode on the CPU."""
    network = _build_structure(artifact)
    network.load_state_dict(dict(artifact.tensors))
    return network.eval()


def reinitialise(artifact: Artifact) -> Network:
    """The same architecture with weights from torch's global generator: nothing learnt is in it.

    All convolutions start as those of a new network do, also where a piece would take over some
    of its teacher's. What no training changes is part of the architecture and stays: the images'
    normalisation, and the projections onto a teacher's principal channels.
    """
    network = _build_structure(artifact)
    initialise(network)
    for name, module in network.named_modules():
        if isinstance(module, PCAProject):
            fixed_tensors = {
                tensor_name: artifact.tensors[f"{name}.{tensor_name}"]
                for tensor_name in module.state_dict()
            }
            module.load_state_dict(fixed_tensors)
    return network.eval()


def _build_structure(artifact: Artifact) -> Network:
    """A stage's network with its normalisation, before it has learnt anything."""
    shape, classes = artifact.record.data.shape, artifact.record.data.classes
    description = NetworkDescription.model_validate(network_description(artifact))
    network = NetworkSpec.parse(description.teacher).build(shape, classes)
    if description.pieces:
        replacements = [BlockReplacement.parse(piece) for piece in description.pieces]
        network = assemble_network(network, shape, replacements)
    quantised = description.quantised
    if quantised:
        network = fuse_blocks(network.eval(), quantised.folded)
    if description.trimmed:
        resize_layers(network, description.trimmed)
    if quantised:
        insert_quantised_layers(network, quantised.bits, quantised.leaving)
    if description.sparse:
        freeze_zero_weights(network)
    if description.heads:
        network = with_linear_heads(network, shape, classes, description.heads)
    mean = artifact.tensors["mean"].flatten().tolist()
    return network.with_normalisation(mean, artifact.tensors["std"].flatten().tolist())


def network_description(artifact: Artifact) -> dict[str, Any]:
    """A network's structure as plain data: the named network, the pieces put into it, and where
    there are some the blocks with ``heads``, layers ``trimmed`` to other sizes, whether its
    zeros are to stay (``sparse``), and the ``bits`` of its weights with the blocks that were
    ``folded`` for it and the layers with a rounding of what is ``leaving`` (``quantised``)."""
    description: dict[str, Any] = artifact.record.facts.get("assembly") or {
        "teacher": network_spec_of(artifact).plain(),
        "pieces": [],
    }
    return description


def network_spec_of(artifact: Artifact) -> NetworkSpec:
    """The named network that a ``train`` stage made."""
    spec_data = artifact.record.settings["network"]
    return NetworkSpec.parse({k: v for k, v in spec_data.items() if k != "version"})


@lru_cache(maxsize=8)
def sketch_and_cuts(
    spec_json: str, shape: Shape, classes: int
) -> tuple[Network, Mapping[int, Shape]]:
    """A network's sketch, and where it may be cut; ``spec_json`` is a network's JSON."""
    network = NetworkSpec.parse(json.loads(spec_json)).build_for_shapes(shape, classes)
    return network, cut_positions(network, shape)
