"""The block pool: one teacher's trained neighbourhoods, as edges for the planner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.assembly.network import (
    BlockReplacement,
    assemble_network,
    head_module,
    stem_module,
)
from stillhouse.search.assembly.planner import Edge
from stillhouse.search.core.metrics import LATENCY_METRIC, NETWORK_METRICS
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.cuts import cut_positions, narrowed_shape
from stillhouse.spaces.modules.network import Network, Shape
from stillhouse.spaces.modules.pca import PCAProject
from stillhouse.spaces.modules.subclasses import subclass_logits_block

ScoreName = Literal["kl", "nmse", "accuracy_drop"]
SOURCE, SINK = ("in", 0.0), ("out", 0.0)
"""The ends of an assembly's path: before the stem and after the head."""
EdgePath = tuple[int, ...]
"""An assembly as the indices of its edges."""


class BlockPool:
    """The parts of assemblies: neighbourhoods, and stems and heads for their widths.

    Args:
        teacher: the network whose blocks are replaced.
        shape: the shape of its images.
        artifacts: the parents of an assemble stage, without the teacher.
        latency_keys: label of a part -> key of its latency among ``artifacts``.
    """

    def __init__(
        self,
        teacher: Network,
        shape: Shape,
        artifacts: Sequence[Artifact],
        latency_keys: Mapping[str, str] | None = None,
    ) -> None:
        self._teacher, self._shape = teacher, shape
        self._cut_shapes = cut_positions(teacher, shape)
        self._bases_by_cut = {
            artifact.record.settings["cut"]: artifact.tensors
            for artifact in artifacts
            if artifact.record.kind == "boundary"
        }
        self._neighbourhoods = [
            artifact
            for artifact in artifacts
            if artifact.record.kind == "neighbourhood" and "diverged" not in artifact.record.facts
        ]
        latency_by_key = {
            a.record.key: a.record.figures[LATENCY_METRIC]
            for a in artifacts
            if LATENCY_METRIC in a.record.figures
        }
        labelled_keys = (latency_keys or {}).items()
        self._latency_by_label = {
            label: latency_by_key[key] for label, key in labelled_keys if key in latency_by_key
        }

    @property
    def fixed_costs(self) -> dict[str, float]:
        """The costs of every assembly besides its parts: mean and std of its images."""
        return {"bytes": 8.0 * len(self._teacher.mean.flatten())}

    def edges(self, score: ScoreName) -> list[Edge]:
        """All parts of plans: the neighbourhoods first, then stems and heads."""
        return [
            self._block_edge(artifact, score) for artifact in self._neighbourhoods
        ] + self._end_edges()

    def measured_paths(self, records: Iterable[Record]) -> dict[EdgePath, Record]:
        """Records of the assemblies of these neighbourhoods, by their edges."""
        end_edges = self._end_edges()
        records_by_path: dict[EdgePath, Record] = {}
        index_of_key = {artifact.record.key: i for i, artifact in enumerate(self._neighbourhoods)}
        replacements = {
            i: replacement_of(artifact).plain() for i, artifact in enumerate(self._neighbourhoods)
        }
        for record in records:
            if record.kind != "assemble" or record.network is None:
                continue
            own_indices = [index_of_key[key] for key in record.parents if key in index_of_key]
            stored_replacements = record.network.pieces
            block_edges = [
                i
                for replacement in stored_replacements
                for i in own_indices
                if replacements[i] == replacement
            ]
            if len(block_edges) == len(stored_replacements):
                stem_edge = end_edges.index(
                    next(
                        edge for edge in end_edges if edge.head == _entry_node(stored_replacements)
                    )
                )
                head_edge = end_edges.index(
                    next(edge for edge in end_edges if edge.tail == _exit_node(stored_replacements))
                )
                path = (
                    len(self._neighbourhoods) + stem_edge,
                    *block_edges,
                    len(self._neighbourhoods) + head_edge,
                )
                records_by_path.setdefault(path, record)
        return records_by_path

    def describe_parts(self, path: EdgePath, edges: Sequence[Edge]) -> Iterator[dict[str, Any]]:
        """Position, score and costs of each part of an assembly, from the stem to the head."""
        end_positions: dict[Any, Any] = {SOURCE: (0, 1.0), SINK: (len(self._teacher.names), 1.0)}
        for edge in (edges[index] for index in path):
            start, enter = end_positions.get(edge.tail, edge.tail)
            stop, leave = end_positions.get(edge.head, edge.head)
            description = {"name": edge.name, "score": edge.score, "costs": dict(edge.costs)}
            yield {**description, "start": start, "stop": stop, "enter": enter, "leave": leave}

    def neighbourhoods_on(self, path: EdgePath) -> list[Artifact]:
        """The neighbourhoods of an assembly, in order."""
        return [self._neighbourhoods[i] for i in path if i < len(self._neighbourhoods)]

    def build_network(self, neighbourhoods: Sequence[Artifact]) -> Network:
        """The assembly of trained neighbourhoods."""
        replacements = [replacement_of(artifact) for artifact in neighbourhoods]
        modules = []
        for replacement, artifact in zip(replacements, neighbourhoods, strict=True):
            module = replacement.build(self._teacher, self._cut_shapes)
            module.load_state_dict(dict(artifact.tensors))
            modules.append(module.eval())
        network = assemble_network(self._teacher, self._shape, replacements, modules)
        first_cut, last_cut = min(self._cut_shapes), max(self._cut_shapes)
        for name, cut, width in (
            (network.names[0], first_cut, replacements[0].enter),
            (subclass_logits_block(network), last_cut, replacements[-1].leave),
        ):
            if width < 1.0:
                self._load_projection(network.blocks[name], cut, width)
        return network

    def _load_projection(self, end_module: nn.Module, cut: int, width: float) -> None:
        """Load the principal channels at a cut into the projection of a stem or head."""
        tensors, num_kept = self._bases_by_cut[cut], narrowed_shape(self._cut_shapes[cut], width)[0]
        state = {"basis": tensors["basis"][:num_kept], "mean": tensors["mean"]}
        projection = next(
            module for module in end_module.modules() if isinstance(module, PCAProject)
        )
        projection.load_state_dict(state)

    def _block_edge(self, artifact: Artifact, score: ScoreName) -> Edge:
        replacement, metrics = replacement_of(artifact), artifact.record.figures
        tail, head = (replacement.start, replacement.enter), (replacement.stop, replacement.leave)
        own_costs = {name: metrics[name] for name in NETWORK_METRICS}
        return Edge(
            tail,
            head,
            replacement.label,
            metrics[score],
            self._with_latency(own_costs, replacement.label),
        )

    def _end_edges(self) -> list[Edge]:
        """Stems and heads for each width of the neighbourhoods there."""
        replacements = [replacement_of(artifact) for artifact in self._neighbourhoods]
        first_cut, last_cut = min(self._cut_shapes), max(self._cut_shapes)
        edges = []
        for width in sorted(
            {replacement.enter for replacement in replacements if replacement.start == first_cut}
        ):
            own_costs = compute_costs(
                stem_module(self._teacher, self._cut_shapes, width), self._shape
            ).plain()
            edge_costs = self._with_latency(own_costs, end_label("stem", width))
            edges.append(Edge(SOURCE, (first_cut, width), "stem", 0.0, edge_costs))
        for width in sorted(
            {replacement.leave for replacement in replacements if replacement.stop == last_cut}
        ):
            input_shape = narrowed_shape(self._cut_shapes[last_cut], width)
            own_costs = compute_costs(
                head_module(self._teacher, self._cut_shapes, width), input_shape
            ).plain()
            edge_costs = self._with_latency(own_costs, end_label("head", width))
            edges.append(Edge((last_cut, width), SINK, "head", 0.0, edge_costs))
        return edges

    def _with_latency(self, own_costs: Mapping[str, float], label: str) -> dict[str, float]:
        latency = self._latency_by_label.get(label)
        return {**own_costs, **({} if latency is None else {LATENCY_METRIC: latency})}


def end_label(end: str, width: float) -> str:
    """The label of a teacher's stem or head: ``stem``, or ``head 0.5`` if the width is below 1."""
    return end if width >= 1.0 else f"{end} {width:g}"


def _entry_node(replacements: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    return replacements[0]["start"], replacements[0]["enter"]


def _exit_node(replacements: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    return replacements[-1]["stop"], replacements[-1]["leave"]


def replacement_of(artifact: Artifact) -> BlockReplacement:
    """The replacement that a neighbourhood's artifact holds."""
    operation_identity = artifact.record.settings
    block_data = {k: v for k, v in operation_identity["block"].items() if k != "version"}
    return BlockReplacement.parse({**operation_identity, "block": block_data})
