"""Loading networks from artifacts, and assembling them from a teacher and replacements."""

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
    """A replacement for blocks ``start`` .. ``stop`` - 1 of a teacher.

    ``enter`` and ``leave`` are the shares of the teacher's channels at its two ends.
    """

    start: int
    stop: int
    block: BlockSpec
    enter: float = 1.0
    leave: float = 1.0

    @property
    def label(self) -> str:
        """Position and block, such as ``3-5 ghost``, and the widths if one is below 1."""
        is_narrow = self.enter < 1.0 or self.leave < 1.0
        widths = f" {self.enter:g}-{self.leave:g}" if is_narrow else ""
        return f"{self.start}-{self.stop} {self.block.label}{widths}"

    def build(self, teacher: Network, cut_shapes: Mapping[int, Shape]) -> nn.Module:
        """The replacement without training.

        Args:
            cut_shapes: the teacher's ``cut_positions``.

        Raises:
            ConfigError: this kind of block does not fit there.
        """
        input_shape = narrowed_shape(cut_shapes[self.start], self.enter)
        output_shape = narrowed_shape(cut_shapes[self.stop], self.leave)
        return self.block.build(teacher.span(self.start, self.stop), input_shape, output_shape)

    def plain(self) -> dict[str, Any]:
        """The replacement as JSON types."""
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
    """A network of the teacher's stem, the replacements in order, and the teacher's head.

    Args:
        teacher: its stem and head are shared; ``replacements`` are built for its blocks.
        modules: the trained replacements; without them, untrained ones are built.

    Returns:
        A network whose blocks have the teacher's names. A replacement of one block has its name, a
        longer one ``<first>_to_<last>``. If the first or last width is below 1, the stem ends in a
        :class:`PCAProject` and the head begins with a :class:`PCAExpand`, whose tensors are loaded
        later.
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
    """A teacher's first block, followed by a projection if ``width`` is below 1."""
    block, channels = teacher.blocks[teacher.names[0]], cut_shapes[min(cut_shapes)][0]
    num_kept = narrowed_shape(cut_shapes[min(cut_shapes)], width)[0]
    return nn.Sequential(block, PCAProject.empty(num_kept, channels)) if width < 1.0 else block


def head_module(teacher: Network, cut_shapes: Mapping[int, Shape], width: float) -> nn.Module:
    """A teacher's head, after an expansion if ``width`` is below 1.

    A block that sums subclasses may follow it; that block has no weights and no cost.
    """
    block, channels = teacher.blocks[teacher.names[max(cut_shapes)]], cut_shapes[max(cut_shapes)][0]
    num_kept = narrowed_shape(cut_shapes[max(cut_shapes)], width)[0]
    return nn.Sequential(PCAExpand.empty(num_kept, channels), block) if width < 1.0 else block


def _block_name(names: Sequence[str], replacement: BlockReplacement) -> str:
    first, last = names[replacement.start], names[replacement.stop - 1]
    return first if first == last else f"{first}_to_{last}"


def load_network(artifact: Artifact) -> Network:
    """The network of an artifact, in evaluation mode on the CPU."""
    network = _build_structure(artifact)
    network.load_state_dict(dict(artifact.tensors))
    return network.eval()


def reinitialise(artifact: Artifact) -> Network:
    """The same architecture with new weights from torch's global generator.

    All convolutions are initialised, also in replacements that copy the teacher's blocks. Tensors
    that training does not change stay: the normalisation of images and the PCA projections.
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
    """The structure of a network as plain data.

    ``teacher`` is the named network and ``pieces`` are its replacements. Optional fields: blocks
    with ``heads``; layers ``trimmed`` to other sizes; ``sparse`` if zero weights stay 0;
    ``quantised`` with ``bits``, the ``folded`` blocks and the layers with quantised outputs
    (``leaving``).
    """
    description: dict[str, Any] = artifact.record.facts.get("assembly") or {
        "teacher": network_spec_of(artifact).plain(),
        "pieces": [],
    }
    return description


def network_spec_of(artifact: Artifact) -> NetworkSpec:
    """The named network of a ``train`` stage."""
    spec_data = artifact.record.settings["network"]
    return NetworkSpec.parse({k: v for k, v in spec_data.items() if k != "version"})


@lru_cache(maxsize=8)
def sketch_and_cuts(
    spec_json: str, shape: Shape, classes: int
) -> tuple[Network, Mapping[int, Shape]]:
    """A network built for its shapes only, and its cuts, from the JSON of its specification."""
    network = NetworkSpec.parse(json.loads(spec_json)).build_for_shapes(shape, classes)
    return network, cut_positions(network, shape)
