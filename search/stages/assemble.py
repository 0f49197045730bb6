"""``do: assemble``: the best student that a teacher's neighbourhoods make under budgets.

The planner picks cuts, candidates and widths at once from what the library knows of each;
batch-norm statistics are taken anew; the result is an ordinary network that trials go on from.
``rank`` takes the second best plan, the third best and so on, so that a search chooses among them
by what they really reach.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from methods.core.data.config import DataConfig
from methods.core.data.dataset import open_data
from methods.core.data.facts import facts
from methods.core.evaluation import evaluate
from methods.core.neighbourhood import recalibrate
from search.assembly import described, rebuild
from search.kind import Entry, Kind
from search.pool import COSTS, Pool, Score, piece_of
from search.settings import Limit, as_limit
from search.stage import Artifact, Bench, Product, Report, Stage, Work
from search.stages.neighbourhoods import cut_open
from spaces.config import knob
from spaces.cost import costs
from spaces.domain import Choice, Domain, Integers
from spaces.problem import ConfigError, Problem, unknown


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
