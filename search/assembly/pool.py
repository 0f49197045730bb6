"""The pool: one teacher's neighbourhoods as the library has them, for the planner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.assembly.network import Piece, assembled, head, stem
from stillhouse.search.assembly.planner import Edge
from stillhouse.spaces.cost import costs
from stillhouse.spaces.modules.cuts import narrowed, positions
from stillhouse.spaces.modules.network import Network, Shape
from stillhouse.spaces.modules.pca import Narrow
from stillhouse.spaces.modules.subclasses import before_classes

Score = Literal["kl", "nmse", "accuracy_drop"]
COSTS = ("parameters", "flops", "bytes")
LATENCY = "latency_ms"
BUDGETS = (*COSTS, LATENCY)
"""Costs that a budget may be on."""
IN, OUT = ("in", 0.0), ("out", 0.0)
"""Where an assembly's path begins and ends: before the stem, behind the head."""
Path = tuple[int, ...]
"""An assembly as the places of its edges."""


class Pool:
    """What assemblies can be made of: neighbourhoods, and stems and heads for their widths.

    Args:
        teacher: whose blocks they replace.
        shape: of its images.
        made: the artifacts an assemble stage rests on, the teacher's apart.
        timed: label of a part -> key of its latency among ``made``.
    """

    def __init__(
        self,
        teacher: Network,
        shape: Shape,
        made: Sequence[Artifact],
        timed: Mapping[str, str] | None = None,
    ) -> None:
        self._teacher, self._shape = teacher, shape
        self._at = positions(teacher, shape)
        self._bases = {
            artifact.record.identity["work"]["cut"]: artifact.tensors
            for artifact in made
            if artifact.record.kind == "boundary"
        }
        self._made = [
            artifact
            for artifact in made
            if artifact.record.kind == "neighbourhood" and "diverged" not in artifact.record.facts
        ]
        times = {
            a.record.key: a.record.figures[LATENCY] for a in made if LATENCY in a.record.figures
        }
        known = (timed or {}).items()
        self._latency = {label: times[key] for label, key in known if key in times}

    @property
    def fixed(self) -> dict[str, float]:
        """What every assembly costs besides its parts: the mean and deviation of its images."""
        return {"bytes": 8.0 * len(self._teacher.mean.flatten())}

    def edges(self, score: Score) -> list[Edge]:
        """Everything a plan may be made of: the neighbourhoods first, then stems and heads."""
        return [self._edge(artifact, score) for artifact in self._made] + self._ends()

    def paths(self, records: Iterable[Record]) -> dict[Path, Record]:
        """Assemblies of these neighbourhoods that were made before, by their edges."""
        edges = self._ends()
        found: dict[Path, Record] = {}
        places = {artifact.record.key: i for i, artifact in enumerate(self._made)}
        pieces = {i: piece_of(artifact).plain() for i, artifact in enumerate(self._made)}
        for record in records:
            if record.kind != "assemble":
                continue
            own = [places[key] for key in record.parents if key in places]
            told = record.facts["assembly"]["pieces"]
            chosen = [i for piece in told for i in own if pieces[i] == piece]
            if len(chosen) == len(told):
                first = edges.index(next(e for e in edges if e.head == _first(told)))
                last = edges.index(next(e for e in edges if e.tail == _last(told)))
                path = (len(self._made) + first, *chosen, len(self._made) + last)
                found.setdefault(path, record)
        return found

    def parts(self, path: Path, edges: Sequence[Edge]) -> Iterator[dict[str, Any]]:
        """Each part of an assembly, from the stem to the head: where it stands, what it costs."""
        ends: dict[Any, Any] = {IN: (0, 1.0), OUT: (len(self._teacher.names), 1.0)}
        for edge in (edges[place] for place in path):
            start, enter = ends.get(edge.tail, edge.tail)
            stop, leave = ends.get(edge.head, edge.head)
            told = {"name": edge.name, "score": edge.score, "costs": dict(edge.costs)}
            yield {**told, "start": start, "stop": stop, "enter": enter, "leave": leave}

    def chosen(self, path: Path) -> list[Artifact]:
        """The neighbourhoods of an assembly, in order."""
        return [self._made[i] for i in path if i < len(self._made)]

    def network(self, chosen: Sequence[Artifact]) -> Network:
        """The network they make, with what they learnt."""
        pieces = [piece_of(artifact) for artifact in chosen]
        modules = []
        for piece, artifact in zip(pieces, chosen, strict=True):
            module = piece.build(self._teacher, self._at)
            module.load_state_dict(dict(artifact.tensors))
            modules.append(module.eval())
        network = assembled(self._teacher, self._shape, pieces, modules)
        first, last = (network.names[0], min(self._at)), (before_classes(network), max(self._at))
        for (name, cut), width in ((first, pieces[0].enter), (last, pieces[-1].leave)):
            if width < 1.0:  # a projection beside the teacher's own block
                self._project(network.blocks[name], cut, width)
        return network

    def _project(self, end: nn.Module, cut: int, width: float) -> None:
        """Load the principal channels at a cut into a stem or head."""
        tensors, kept = self._bases[cut], narrowed(self._at[cut], width)[0]
        state = {"basis": tensors["basis"][:kept], "mean": tensors["mean"]}
        projection = next(m for m in end.modules() if isinstance(m, Narrow))
        projection.load_state_dict(state)

    def _edge(self, artifact: Artifact, score: Score) -> Edge:
        piece, figures = piece_of(artifact), artifact.record.figures
        tail, head_ = (piece.start, piece.enter), (piece.stop, piece.leave)
        known = {name: figures[name] for name in COSTS}
        return Edge(tail, head_, piece.label, figures[score], self._timed(known, piece.label))

    def _ends(self) -> list[Edge]:
        """Stem and head at each width that occurs there."""
        pieces = [piece_of(artifact) for artifact in self._made]
        first, last = min(self._at), max(self._at)
        found = []
        for width in sorted({p.enter for p in pieces if p.start == first}):
            cost = costs(stem(self._teacher, self._at, width), self._shape).plain()
            told = self._timed(cost, end_label("stem", width))
            found.append(Edge(IN, (first, width), "stem", 0.0, told))
        for width in sorted({p.leave for p in pieces if p.stop == last}):
            inputs = narrowed(self._at[last], width)
            cost = costs(head(self._teacher, self._at, width), inputs).plain()
            told = self._timed(cost, end_label("head", width))
            found.append(Edge((last, width), OUT, "head", 0.0, told))
        return found

    def _timed(self, known: Mapping[str, float], label: str) -> dict[str, float]:
        latency = self._latency.get(label)
        return {**known, **({} if latency is None else {LATENCY: latency})}


def end_label(end: str, width: float) -> str:
    """``stem``, ``head 0.5``: a teacher's end and its share of channels where that is narrow."""
    return end if width >= 1.0 else f"{end} {width:g}"


def _first(pieces: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    return pieces[0]["start"], pieces[0]["enter"]


def _last(pieces: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    return pieces[-1]["stop"], pieces[-1]["leave"]


def piece_of(artifact: Artifact) -> Piece:
    """What a neighbourhood's artifact is, and where it goes."""
    work = artifact.record.identity["work"]
    block = {k: v for k, v in work["block"].items() if k != "version"}
    return Piece.parse({**work, "block": block})
