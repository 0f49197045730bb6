"""The pool: one teacher's neighbourhoods as the library has them, for the planner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from search.assembly import Piece, assembled
from search.library.record import Record
from search.neighbourhood import boundary
from search.planner import Assembly, Budget, Disconnected, Edge, Infeasible, assemblies
from search.settings import Limit
from search.stage import Artifact
from spaces.boundary import Narrow, Widen
from spaces.cost import costs
from spaces.cuts import narrowed, positions
from spaces.network import Network, Shape
from spaces.problem import ConfigError, Problem

Score = Literal["kl", "nmse", "accuracy_drop"]
Budgets = Mapping[str, Limit]
COSTS = ("parameters", "flops", "bytes")
_IN, _OUT = ("in", 0.0), ("out", 0.0)


class Pool:
    """The neighbourhoods of one teacher as the library has them, for the planner."""

    def __init__(self, teacher: Network, shape: Shape, made: Sequence[Artifact]) -> None:
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

    def edges(self, score: Score) -> list[Edge]:
        """Everything a plan may be made of: the neighbourhoods first, then stems and heads."""
        return [self._edge(artifact, score) for artifact in self._made] + self._ends()

    def measured(self, records: Iterable[Record]) -> dict[tuple[int, ...], float]:
        """What assemblies of these neighbourhoods, made before, lost in accuracy: 1 - accuracy.

        Returns:
            By a plan's edges, as :meth:`edges` has them.
        """
        edges, found = self._ends(), {}
        places = {artifact.record.key: i for i, artifact in enumerate(self._made)}
        pieces = {i: piece_of(artifact).plain() for i, artifact in enumerate(self._made)}
        for record in records:
            if record.kind != "assemble":
                continue
            own = [places[key] for key in record.parents if key in places]
            told = record.facts["assembly"]["pieces"]
            chosen = [i for piece in told for i in own if pieces[i] == piece]
            if len(chosen) == len(told):
                stem = edges.index(next(e for e in edges if e.head == _first(told)))
                head = edges.index(next(e for e in edges if e.tail == _last(told)))
                path = (len(self._made) + stem, *chosen, len(self._made) + head)
                found[path] = 1.0 - record.figures["val_accuracy"]
        return found

    def plans(
        self,
        edges: Sequence[Edge],
        budgets: Budgets,
        best: int,
        apart: int,
        fewer: bool = False,
    ) -> list[Assembly]:
        """The ``best`` plans in order; with ``fewer``, all there are if they are not so many.

        Args:
            edges: as :meth:`edges` has them, perhaps with corrected scores.

        Raises:
            ConfigError: a budget that cannot be kept, with what can; cuts with a gap; too few.
        """
        limits = {name: Budget(limit.max, limit.min) for name, limit in budgets.items()}
        mean = {"bytes": 8.0 * len(self._teacher.mean.flatten())}  # mean and standard deviation
        try:
            found = assemblies(edges, _IN, _OUT, limits, fixed=mean, best=best, apart=apart)
        except (Infeasible, Disconnected) as error:
            raise ConfigError([Problem("budgets", str(error))]) from None
        if len(found) < best and not fewer:
            message = f"the budgets leave {len(found)} plans, ranks 0 to {len(found) - 1}"
            raise ConfigError([Problem("rank", message)])
        return found

    def chosen(self, plan: Assembly) -> list[Artifact]:
        """The neighbourhoods of a plan, in order."""
        return [self._made[i] for i in plan.edges if i < len(self._made)]

    def network(self, chosen: Sequence[Artifact]) -> Network:
        """The network they make, with what they learnt."""
        pieces = [piece_of(artifact) for artifact in chosen]
        modules = []
        for piece, artifact in zip(pieces, chosen, strict=True):
            module = piece.build(self._teacher, self._at)
            module.load_state_dict(dict(artifact.tensors))
            modules.append(module.eval())
        network = assembled(self._teacher, self._shape, pieces, modules)
        first, last = network.names[0], network.names[-1]
        for name, end in (
            (first, self._stem(pieces[0].enter)),
            (last, self._head(pieces[-1].leave)),
        ):
            network.blocks[name].load_state_dict(end.state_dict())
        return network

    def _edge(self, artifact: Artifact, score: Score) -> Edge:
        piece, figures = piece_of(artifact), artifact.record.figures
        return Edge(
            (piece.start, piece.enter),
            (piece.stop, piece.leave),
            piece.label,
            figures[score],
            {name: figures[name] for name in COSTS},
        )

    def _ends(self) -> list[Edge]:
        """Stem and head at each width that occurs there."""
        pieces = [piece_of(artifact) for artifact in self._made]
        first, last = min(self._at), max(self._at)
        found = []
        for width in sorted({p.enter for p in pieces if p.start == first}):
            cost = costs(self._stem(width), self._shape).plain()
            found.append(Edge(_IN, (first, width), "stem", 0.0, cost))
        for width in sorted({p.leave for p in pieces if p.stop == last}):
            cost = costs(self._head(width), narrowed(self._at[last], width)).plain()
            found.append(Edge((last, width), _OUT, "head", 0.0, cost))
        return found

    def _stem(self, width: float) -> nn.Module:
        stem = self._teacher.blocks[self._teacher.names[0]]
        narrow = boundary(Narrow, self._bases, min(self._at), self._at, width)
        return nn.Sequential(stem, narrow) if narrow else stem

    def _head(self, width: float) -> nn.Module:
        head = self._teacher.blocks[self._teacher.names[-1]]
        widen = boundary(Widen, self._bases, max(self._at), self._at, width)
        return nn.Sequential(widen, head) if widen else head


def _first(pieces: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    return pieces[0]["start"], pieces[0]["enter"]


def _last(pieces: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    return pieces[-1]["stop"], pieces[-1]["leave"]


def piece_of(artifact: Artifact) -> Piece:
    """What a neighbourhood's artifact is, and where it goes."""
    work = artifact.record.identity["work"]
    block = {k: v for k, v in work["block"].items() if k != "version"}
    return Piece.parse({**work, "block": block})
