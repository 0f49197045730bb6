"""``do: assemble``: the best student that a teacher's neighbourhoods make under budgets.

The planner picks cuts, candidates and widths at once from what the library knows of each;
batch-norm statistics are taken anew; the result is an ordinary network that trials go on from.
``rank`` takes the second best plan, the third best and so on, so that a search chooses among them
by what they really reach. ``calibrate`` has a few assemblies made first, and corrects by them what
parts add up to.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, field_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.evaluation import validated, validated_names
from stillhouse.methods.core.training.neighbourhood import recalibrate
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.calibration import FEWEST
from stillhouse.search.assembly.cost_model import Estimate, estimate
from stillhouse.search.assembly.network import described, rebuild
from stillhouse.search.assembly.planner import Assembly
from stillhouse.search.assembly.pool import BUDGETS, LATENCY, Pool, Score, end_label, piece_of
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import COSTS, Bench, Product, Report, Stage, Work
from stillhouse.search.stages.neighbourhoods import cut_open
from stillhouse.search.stages.ops.latency import LATENCIES, MeasureLatency
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice, Domain, Integers
from stillhouse.spaces.config.limits import Limit, as_limit
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown
from stillhouse.spaces.cost import costs
from stillhouse.spaces.latency import LatencySettings
from stillhouse.spaces.network_spec import NetworkSpec


class AssembleNetwork(Work):
    """Plan, put together, recalibrate, evaluate, time as a whole."""

    version: ClassVar[int] = 3
    kind: ClassVar[str] = "assemble"
    makes_network: ClassVar[bool] = True

    budgets: dict[str, Limit] = knob({}, "cost -> the range it must keep")
    score: Score = knob("kl", "what is added up and minimised")
    rank: int = knob(0, "0 the best plan, 1 the second best, ...", ge=0)
    apart: int = knob(1, "places in which two plans differ at least", ge=1)
    recalibrate: int = knob(20, "training batches of 256 for batch-norm statistics", ge=0)
    latency: LatencySettings | None = knob(None, "how it is timed, if it is")
    timed: dict[str, str] = knob({}, "label of a part -> key of its latency")
    along: str = knob("parameters", "cost by which assemblies to calibrate by are spread")
    share: float | None = knob(None, "of the way from the least of that cost to the best score")

    def identity(self) -> dict[str, Any]:
        """``timed`` says what the parents do."""
        latency = self.latency.identity() if self.latency else None
        return {k: v for k, v in self.plain().items() if k != "timed"} | {"latency": latency}

    def figures(self, stage: Stage) -> frozenset[str]:
        """Without ``planned_loss``, which takes first assemblies that differ enough."""
        found = COSTS | validated_names(stage.data, stage.subclasses) | {"planned_score"}
        timed = {*LATENCIES, "summed_latency_ms", "planned_latency_ms"}
        return found | (timed if self.latency else frozenset())

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset, teacher = open_data(data), rebuild(parents[0])
        pool = Pool(teacher, dataset.shape, parents[1:], self.timed)
        known = estimate(pool, self.score, [parent.record for parent in parents])
        plan = self._plan(known)
        chosen = pool.chosen(plan.edges)
        network = pool.network(chosen)
        if self.recalibrate:
            recalibrate(network, dataset, bench.device, self.recalibrate)
        report = {"epoch": 1.0} | validated(network, dataset, bench.device)
        yield report
        figures = {k: v for k, v in report.items() if k != "epoch"}
        figures |= costs(network.cpu(), dataset.shape).plain() | _expected(known, plan)
        if self.latency:
            figures |= self.latency.measure(network, dataset.shape)
        pieces = [piece_of(artifact) for artifact in chosen]
        told = {
            "data": facts(data).plain(),
            "assembly": {
                "teacher": described(parents[0])["teacher"],
                "pieces": [piece.plain() for piece in pieces],
            },
            "chosen": [piece.label for piece in pieces],
            "parts": list(pool.parts(plan.edges, known.summed)),
            "over": dict(self._over(figures)),
        }
        told |= {"calibration": known.told()} if known.told() else {}
        return Product(network.state_dict(), figures, told)

    def _plan(self, known: Estimate) -> Assembly:
        if self.share is not None:
            return known.along(self.along, self.share)
        return known.plans(self.budgets, self.rank + 1, self.apart)[-1]

    def _over(self, figures: Mapping[str, float]) -> Iterator[tuple[str, Any]]:
        """Budgets that the whole network was found not to keep, as a latency may."""
        for cost, limit in self.budgets.items():
            if limit.excess(figures[cost]) > 0:
                yield cost, {"found": figures[cost], "most": limit.max, "least": limit.min}


def _expected(known: Estimate, plan: Assembly) -> dict[str, float]:
    """What the planner expects of a plan."""
    score, latency = known.summed_over(plan.edges)
    found = {
        "planned_score": score,
        "planned_loss": known.expected_loss(plan),
        "summed_latency_ms": latency,
        "planned_latency_ms": plan.costs.get(LATENCY),
    }
    return {name: value for name, value in found.items() if value is not None}


class Assemble(Kind):
    """An entry that makes the best student of a teacher's neighbourhoods."""

    neighbourhoods: str = knob(..., "the entry that distils them")
    budgets: dict[str, Annotated[Limit, BeforeValidator(as_limit)]] = knob(
        {}, "parameters, flops, bytes or latency_ms -> the most, or {min: ..., max: ...}"
    )
    score: Score = knob(
        "kl", "what is added up and minimised", Choice(("kl", "nmse", "accuracy_drop"))
    )
    rank: int = knob(0, "0 the best plan, 1 the second best, ...", Integers(0, 7), ge=0)
    apart: int = knob(1, "places in which two plans differ at least", Integers(1, 3), ge=1)
    recalibrate: int | None = knob(
        None,
        "training batches of 256 for batch-norm statistics; none means 20, or 0 where parts were "
        "learnt from drawn statistics, which fit as they are",
        ge=0,
    )
    calibrate: int = knob(
        0, "assemblies made first, by which sums of scores and latencies are corrected", ge=0
    )
    latency: LatencySettings | None = knob(
        None, "time every part and the whole, as run.latency says or as is said here"
    )
    chosen: tuple[str, ...] = knob((), "these parts, like `3-5 ghost`, instead of planning")

    @field_validator("calibrate")
    @classmethod
    def _enough(cls, calibrate: int) -> int:
        if 0 < calibrate < FEWEST:
            raise ValueError(f"needs {FEWEST} or more to fit a line, or 0, found {calibrate}")
        return calibrate

    def needs(self) -> tuple[str, ...]:
        return (self.neighbourhoods,)

    @property
    def repeated(self) -> bool:
        return False

    def timed_by(self, latency: LatencySettings) -> Assemble:
        """Where a budget asks for latency and nothing is said here of how, as ``latency`` says."""
        asked = self.latency is not None or LATENCY in self.budgets
        own = self.latency is not None and self.latency.model_fields_set
        return self.model_copy(update={"latency": latency}) if asked and not own else self

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        made = needed[self.neighbourhoods].members
        if any(stage.work.kind != "neighbourhood" for stage in made):
            message = f"{self.neighbourhoods} distils none; name an entry with do: neighbourhoods"
            raise ConfigError([Problem("neighbourhoods", message)])
        for cost in self.budgets:
            if cost not in BUDGETS:
                raise ConfigError([Problem("budgets", unknown("cost", cost, BUDGETS))])
        spec = cut_open(made[0].parents[0])
        if self.chosen:
            made = self._those(made)
        latencies = dict(self._latencies(name, made, spec, data)) if self.latency else {}
        work = AssembleNetwork(
            budgets=self.budgets,
            score=self.score,
            rank=self.rank,
            apart=self.apart,
            recalibrate=self._batches(made),
            latency=self.latency,
            timed={label: stage.key for label, stage in latencies.items()},
        )
        bases = {base.key: base for stage in made for base in stage.parents[1:]}
        times = {stage.key: stage for stage in latencies.values()}
        parents = (made[0].parents[0], *bases.values(), *times.values(), *made)
        first = tuple(self._first(name, work, data, parents))
        return Entry((Stage(name, work, data, (*parents, *first)),))

    def _first(
        self, name: str, work: AssembleNetwork, data: DataConfig, parents: tuple[Stage, ...]
    ) -> Iterator[Stage]:
        """Assemblies to calibrate by: spread from the cheapest to the best, whatever the budget."""
        along = next(iter(self.budgets), "parameters")
        told = {"budgets": {}, "rank": 0, "apart": 1, "along": along}
        for i in range(self.calibrate):
            share = (i + 1) / (self.calibrate + 1)
            first = work.model_copy(update={**told, "share": share})
            yield Stage(f"{name}/first{i + 1}", first, data, parents)

    def _latencies(
        self, name: str, made: Sequence[Stage], spec: NetworkSpec, data: DataConfig
    ) -> Iterator[tuple[str, Stage]]:
        """The latency of each part by its label; parts of one structure share theirs."""
        assert self.latency is not None
        about = facts(data)
        one = MeasureLatency(
            network=spec, shape=about.shape, classes=about.classes, part="stem", how=self.latency
        )
        for label, change in _timed_parts(made):
            yield label, Stage(f"{name}/time {label}", one.model_copy(update=change), data)

    def _batches(self, made: Sequence[Stage]) -> int:
        if self.recalibrate is not None:
            return self.recalibrate
        drawn = any(getattr(stage.work, "inputs", "data") == "statistics" for stage in made)
        return 0 if drawn else 20

    def _those(self, made: Sequence[Stage]) -> tuple[Stage, ...]:
        by_label = {stage.label.partition("/")[2]: stage for stage in made}
        for label in self.chosen:
            if label not in by_label:
                raise ConfigError([Problem("chosen", unknown("part", label, by_label))])
        return tuple(by_label[label] for label in self.chosen)

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        return type(self).space().get(path[0]) if len(path) == 1 else None


def _timed_parts(made: Iterable[Stage]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and settings of every part that an assembly may be made of."""
    works = [stage.work for stage in made if isinstance(stage.work, DistilNeighbourhood)]
    first, last = min(work.start for work in works), max(work.stop for work in works)
    for width in sorted({work.enter for work in works if work.start == first}):
        yield end_label("stem", width), {"part": "stem", "leave": width}
    for width in sorted({work.leave for work in works if work.stop == last}):
        yield end_label("head", width), {"part": "head", "enter": width}
    fields = ("start", "stop", "block", "enter", "leave")
    for work in works:
        told = {field: getattr(work, field) for field in fields}
        yield work.piece.label, {"part": "piece", **told}
