"""Commands about experiment files: check, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.search.assembly.pool import BUDGETS
from stillhouse.search.cli.show import Json, Set, as_json, as_table, console, parse_changes
from stillhouse.search.core.formatting import PARTS, compact, duration
from stillhouse.search.driver.assembly_proposals import offers, write_offers
from stillhouse.search.driver.cautions import cautions
from stillhouse.search.driver.plan import Plan, PlannedStage
from stillhouse.search.driver.plan import plan as make_plan
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.initial_points import starts
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.limits import Limit, as_limit
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown

_TOGETHER = {**PARTS, "assemble": "assemblies"}
"""Kinds of stage of which a search may have hundreds -> what several are called."""
File = Annotated[Path, typer.Argument(help="Experiment file (YAML).")]
Budget = Annotated[
    list[str] | None,
    typer.Option(metavar="COST=MOST", help="Plan assemblies from the library; repeatable."),
]


def check(file: File, changes: Set = None, json: Json = False) -> None:
    """Validate an experiment file; nothing is run."""
    experiment = load_experiment(file, parse_changes(changes))
    if json:
        warned = [{"path": each.about, "message": each.message} for each in cautions(experiment)]
        told = {"valid": True, "name": experiment.name, "searched": list(experiment.search)}
        as_json({**told, "warnings": warned})
        return
    console.print(f"{file}: valid")
    for each in cautions(experiment):
        console.print(f"warning: {each}", markup=False, soft_wrap=True)
    if experiment.search:
        as_table(("searched", "values"), [(p, str(d)) for p, d in experiment.search.items()])
    if experiment.run.start != "sampler":
        console.print("first trials:", *(f"  {start}" for start in starts(experiment)), sep="\n")


def plan(
    file: File,
    changes: Set = None,
    slots: Annotated[int, typer.Option(help="Trials at once, for the estimate.")] = 0,
    budget: Budget = None,
    front: Annotated[
        str, typer.Option(metavar="COST", help="Plans that none beats in score and this cost.")
    ] = "",
    best: Annotated[int, typer.Option(min=1, help="With --budget, --front: how many plans.")] = 1,
    into: Annotated[Path, typer.Option(help="Folder of the plans' files.")] = Path("plans"),
    json: Json = False,
) -> None:
    """Show what a launch would run, or, with --budget or --front, what the library's parts make."""
    experiment = load_experiment(file, parse_changes(changes))
    if budget or front:
        if front and front not in BUDGETS:
            raise ConfigError([Problem("--front", unknown("cost", front, BUDGETS))])
        _offer(experiment, parse_budgets(budget or []), front, best, into, json)
        return
    planned = make_plan(experiment, slots)
    if json:
        as_json(planned.plain())
        return
    as_table(("shared stage", "taught by", "parameters", "in library", "time"), _rows(planned))
    there = sum(stage.there for stage in planned.stages)
    how = "at most" if planned.exact else "about"
    console.print(
        f"shared stages: {how} {len(planned.stages)}, {there} of them in the library; "
        f"{planned.trials} trials; {planned.repeats} repetitions and baselines"
    )
    console.print(
        f"about {duration(planned.seconds)} with {planned.slots} at a time, judged by a few "
        "steps of each network on this machine"
    )


def _rows(planned: Plan) -> list[tuple[Any, ...]]:
    """A row a stage; parts of networks, of which there may be hundreds, together by their kind."""
    rows: list[tuple[Any, ...]] = []
    parts: dict[tuple[str, str], list[PlannedStage]] = {}
    told_together = {stage.label for stage in planned.stages if stage.kind in _TOGETHER}
    for stage in planned.stages:
        if stage.kind in _TOGETHER:
            parts.setdefault((stage.label.partition("/")[0], stage.kind), []).append(stage)
            continue
        taught_by = ", ".join(label for label in stage.teachers if label not in told_together)
        there = "yes" if stage.there else "no"
        rows.append((stage.label, taught_by, stage.parameters or "", there, _time(stage.seconds)))
    for (entry, kind), some in parts.items():
        ready = sum(stage.there for stage in some)
        seconds = sum(stage.seconds for stage in some)
        what = f"{entry}: {len(some)} {_TOGETHER[kind]}"
        rows.append((what, "", "", f"{ready} of {len(some)}", _time(seconds)))
    return rows


def _time(seconds: float) -> str:
    """How long something may take; nothing where that is not known."""
    return duration(seconds) if seconds else ""


def parse_budgets(pairs: list[str]) -> dict[str, Limit]:
    """``parameters=50_000`` or ``parameters={min: 1, max: 2}`` as limits.

    Raises:
        ConfigError: a cost there is none of, or no number.
    """
    found = {}
    for cost, told in parse_changes(pairs, "--budget").items():
        if cost not in BUDGETS:
            raise ConfigError([Problem("--budget", unknown("cost", cost, BUDGETS))])
        found[cost] = Limit.parse(as_limit(told), f"--budget {cost}")
    return found


def _offer(
    experiment: Experiment,
    budgets: dict[str, Limit],
    front: str,
    best: int,
    into: Path,
    json: bool,
) -> None:
    offered = offers(experiment, budgets, best, front)
    found, known = offered.found, offered.known
    files = write_offers(experiment, budgets, found, into)
    if json:
        as_json([{**o.plain(), "file": str(f)} for o, f in zip(found, files, strict=True)])
        return
    costs = [cost for cost in BUDGETS if all(cost in o.costs for o in found)]
    rows = [
        (
            o.rank,
            f"{o.score:.4g}",
            "" if o.measured is None else f"{o.measured:.4g}",
            *(compact(o.costs[c]) for c in costs),
            ", ".join(o.chosen),
        )
        for o in found
    ]
    predicted = "accuracy lost" if known.loss else "score"
    as_table(("rank", predicted, "measured", *costs, "made of"), rows)
    if known.loss:
        before, left_out = known.loss.before, known.loss.left_out
        console.print(
            f"corrected by {len(known.measured)} assemblies made before: rank correlation "
            f"with them {before.spearman:.2f} as added up, {left_out.spearman:.2f} corrected (each "
            f"by the others), off by {left_out.mean_absolute_error:.3f}"
        )
    if known.latency:
        before, left_out = known.latency.before, known.latency.left_out
        console.print(
            f"latency, against {len(known.measured)} whole networks: off by "
            f"{before.mean_absolute_error:.3g} ms as added up, by "
            f"{left_out.mean_absolute_error:.3g} ms corrected (each by the others)"
        )
    console.print(f"files for launch: {into}/{experiment.name}-<rank>.yaml")
