"""``do: assemble``: the best student that a teacher's neighbourhoods make under budgets.

The planner picks cuts, candidates and widths at once from what the library knows of each;
batch-norm statistics are taken anew; the result is an ordinary network that trials go on from.
``rank`` takes the second best plan, the third best and so on, so that a search chooses among them
by what they really reach.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator
from torch import nn

from methods.core.data.config import DataConfig
from methods.core.data.dataset import open_data
from methods.core.data.facts import facts
from methods.core.evaluation import evaluate
from methods.core.neighbourhood import recalibrate
from search.assembly import Piece, assembled, described, rebuild
from search.kind import Entry, Kind
from search.library.record import Record
from search.neighbourhood import boundary
from search.planner import Assembly, Budget, Disconnected, Edge, Infeasible, assemblies
from search.settings import Limit, as_limit
from search.stage import Artifact, Bench, Product, Report, Stage, Work
from search.stages.neighbourhoods import cut_open
from spaces.boundary import Narrow, Widen
from spaces.config import knob
from spaces.cost import costs
from spaces.cuts import narrowed, positions
from spaces.domain import Choice, Domain, Integers
from spaces.network import Network, Shape
from spaces.problem import ConfigError, Problem, unknown

Score = Literal["kl", "nmse", "accuracy_drop"]
Budgets = Mapping[str, Limit]
COSTS = ("parameters", "flops", "bytes")
_IN, _OUT = ("in", 0.0), ("out", 0.0)


class AssembleNetwork(Work):
    """Plan, put together, recalibrate, evaluate."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "assemble"
    makes_network: ClassVar[bool] = True

    budgets: dict[str, Limit] = knob({}, "cost -> the range it must keep")
    score: Score = knob("kl", "what is added up and minimised")
    rank: int = knob(0, "0 the best plan, 1 the second best, ...", ge=0)
    apart: int = knob(1, "places in which two plans differ at least", ge=1)
    recalibrate: int = knob(20, "training batches of 256 for batch-norm statistics", ge=0)

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset, teacher = open_data(data), rebuild(parents[0])
        made = Pool(teacher, dataset.shape, parents[1:])
        plan = made.plans(made.edges(self.score), self.budgets, self.rank + 1, self.apart)[-1]
        chosen = made.chosen(plan)
        network = made.network(chosen)
        if self.recalibrate:
            recalibrate(network, dataset, bench.device, self.recalibrate)
        scores = evaluate(network, dataset, "validation", device=bench.device)
        report = {"epoch": 1.0} | {f"val_{name}": value for name, value in scores.items()}
        yield report
        network.cpu()
        figures = {k: v for k, v in report.items() if k != "epoch"}
        figures |= costs(network, dataset.shape).plain() | {"planned_score": plan.score}
        pieces = [piece_of(artifact) for artifact in chosen]
        told = {"teacher": described(parents[0])["teacher"], "pieces": [p.plain() for p in pieces]}
        return Product(
            network.state_dict(),
            figures,
            {
                "data": facts(data).plain(),
                "assembly": told,
                "chosen": [piece.label for piece in pieces],
            },
        )


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


class Assemble(Kind):
    """An entry that makes the best student of a teacher's neighbourhoods."""

    neighbourhoods: str = knob(..., "the entry that distils them")
    budgets: dict[str, Annotated[Limit, BeforeValidator(as_limit)]] = knob(
        {}, "parameters, flops or bytes -> the most, or {min: ..., max: ...}"
    )
    score: Score = knob(
        "kl", "what is added up and minimised", Choice(("kl", "nmse", "accuracy_drop"))
    )
    rank: int = knob(0, "0 the best plan, 1 the second best, ...", Integers(0, 7), ge=0)
    apart: int = knob(1, "places in which two plans differ at least", Integers(1, 3), ge=1)
    recalibrate: int = knob(20, "training batches of 256 for batch-norm statistics", ge=0)
    chosen: tuple[str, ...] = knob((), "these parts, like `3-5 ghost`, instead of planning")

    def needs(self) -> tuple[str, ...]:
        return (self.neighbourhoods,)

    @property
    def repeated(self) -> bool:
        return False

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        made = needed[self.neighbourhoods].members
        if any(stage.work.kind != "neighbourhood" for stage in made):
            message = f"{self.neighbourhoods} distils none; name an entry with do: neighbourhoods"
            raise ConfigError([Problem("neighbourhoods", message)])
        for cost in self.budgets:
            if cost not in COSTS:
                raise ConfigError([Problem("budgets", unknown("cost", cost, COSTS))])
        if self.chosen:
            made = self._those(made)
        teacher = made[0].parents[0]
        cut_open(teacher)
        bases = {base.key: base for stage in made for base in stage.parents[1:]}
        work = AssembleNetwork(
            budgets=self.budgets,
            score=self.score,
            rank=self.rank,
            apart=self.apart,
            recalibrate=self.recalibrate,
        )
        return Entry((Stage(name, work, data, (teacher, *bases.values(), *made)),))

    def _those(self, made: Sequence[Stage]) -> tuple[Stage, ...]:
        by_label = {stage.label.partition("/")[2]: stage for stage in made}
        for label in self.chosen:
            if label not in by_label:
                raise ConfigError([Problem("chosen", unknown("part", label, by_label))])
        return tuple(by_label[label] for label in self.chosen)

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        return type(self).space().get(path[0]) if len(path) == 1 else None
