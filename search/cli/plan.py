"""``stillhouse plan``: plans a search, or proposes assemblies from the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.search.cli.options import FileArgument, JsonOption, SetOption, parse_overrides
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.core.formatting import PART_NAMES, format_compact, format_duration
from stillhouse.search.core.metrics import COST_METRICS
from stillhouse.search.driver.assembly_proposals import propose_assemblies, write_proposals
from stillhouse.search.driver.plan import Plan, PlannedStage
from stillhouse.search.driver.plan import plan_search as make_plan
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.limits import Limit, as_limit
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

_COLLECTIVE_NAMES = {**PART_NAMES, "assemble": "assemblies"}
"""Kind of stage of which a search may have hundreds -> its plural."""
Budget = Annotated[
    list[str] | None,
    typer.Option(metavar="COST=MOST", help="Propose assemblies under this budget; repeatable."),
]


def plan(
    file: FileArgument,
    changes: SetOption = None,
    slots: Annotated[int, typer.Option(help="Number of trials at once, for the estimate.")] = 0,
    budget: Budget = None,
    front: Annotated[
        str, typer.Option(metavar="COST", help="Pareto front of score against this cost.")
    ] = "",
    best: Annotated[int, typer.Option(min=1, help="Number of assemblies to propose.")] = 1,
    into: Annotated[Path, typer.Option(help="Folder of the experiment files.")] = Path("plans"),
    json: JsonOption = False,
) -> None:
    """Show what a launch would run, or with --budget or --front, propose assemblies."""
    experiment = load_experiment(file, parse_overrides(changes))
    if budget or front:
        if front and front not in COST_METRICS:
            raise ConfigError([Problem("--front", unknown_message("cost", front, COST_METRICS))])
        _propose_assemblies(experiment, parse_budgets(budget or []), front, best, into, json)
        return
    planned = make_plan(experiment, slots)
    if json:
        print_json(planned.plain())
        return
    print_table(
        ("shared stage", "taught by", "parameters", "in library", "time"), _stage_rows(planned)
    )
    num_available = sum(stage.there for stage in planned.stages)
    precision = "at most" if planned.exact else "about"
    console.print(
        f"shared stages: {precision} {len(planned.stages)}, {num_available} of them in the "
        f"library; {planned.trials} trials; {planned.repeats} repetitions and baselines"
    )
    console.print(
        f"about {format_duration(planned.seconds)} with {planned.slots} at a time, estimated from "
        "a few steps of each network on this machine"
    )


def _stage_rows(planned: Plan) -> list[tuple[Any, ...]]:
    """One row per stage; parts of networks share one row per entry and kind."""
    rows: list[tuple[Any, ...]] = []
    parts: dict[tuple[str, str], list[PlannedStage]] = {}
    collective_labels = {stage.label for stage in planned.stages if stage.kind in _COLLECTIVE_NAMES}
    for stage in planned.stages:
        if stage.kind in _COLLECTIVE_NAMES:
            parts.setdefault((stage.label.partition("/")[0], stage.kind), []).append(stage)
            continue
        taught_by = ", ".join(label for label in stage.teachers if label not in collective_labels)
        availability = "yes" if stage.there else "no"
        rows.append(
            (
                stage.label,
                taught_by,
                stage.parameters or "",
                availability,
                _duration_text(stage.seconds),
            )
        )
    for (entry, kind), stages in parts.items():
        num_available = sum(stage.there for stage in stages)
        seconds = sum(stage.seconds for stage in stages)
        row_label = f"{entry}: {len(stages)} {_COLLECTIVE_NAMES[kind]}"
        rows.append(
            (row_label, "", "", f"{num_available} of {len(stages)}", _duration_text(seconds))
        )
    return rows


def _duration_text(seconds: float) -> str:
    """An estimated time; empty if it is unknown."""
    return format_duration(seconds) if seconds else ""


def parse_budgets(pairs: list[str]) -> dict[str, Limit]:
    """Parse ``parameters=50_000`` or ``parameters={min: 1, max: 2}`` as limits.

    Raises:
        ConfigError: an unknown cost, or a bound that is no number.
    """
    budgets = {}
    for cost, bounds in parse_overrides(pairs, "--budget").items():
        if cost not in COST_METRICS:
            raise ConfigError([Problem("--budget", unknown_message("cost", cost, COST_METRICS))])
        budgets[cost] = Limit.parse(as_limit(bounds), f"--budget {cost}")
    return budgets


def _propose_assemblies(
    experiment: Experiment,
    budgets: dict[str, Limit],
    front: str,
    num_plans: int,
    folder: Path,
    json: bool,
) -> None:
    proposals = propose_assemblies(experiment, budgets, num_plans, front)
    assemblies, calibration = proposals.proposals, proposals.cost_model
    files = write_proposals(experiment, budgets, assemblies, folder)
    if json:
        print_json(
            [
                {**assembly.plain(), "file": str(f)}
                for assembly, f in zip(assemblies, files, strict=True)
            ]
        )
        return
    costs = [
        cost for cost in COST_METRICS if all(cost in assembly.costs for assembly in assemblies)
    ]
    rows = [
        (
            assembly.rank,
            f"{assembly.score:.4g}",
            "" if assembly.measured is None else f"{assembly.measured:.4g}",
            *(format_compact(assembly.costs[c]) for c in costs),
            ", ".join(assembly.chosen),
        )
        for assembly in assemblies
    ]
    predicted = "accuracy lost" if calibration.loss_calibration else "score"
    print_table(("rank", predicted, "measured", *costs, "made of"), rows)
    if calibration.loss_calibration:
        as_added, left_out = (
            calibration.loss_calibration.agreement_before,
            calibration.loss_calibration.agreement_left_out,
        )
        console.print(
            f"corrected by {len(calibration.measured_assemblies)} measured assemblies: rank "
            f"correlation with them {as_added.spearman:.2f} as summed, {left_out.spearman:.2f} "
            f"corrected (each by the others), off by {left_out.mean_absolute_error:.3f}"
        )
    if calibration.latency_calibration:
        as_added, left_out = (
            calibration.latency_calibration.agreement_before,
            calibration.latency_calibration.agreement_left_out,
        )
        console.print(
            f"latency, compared with {len(calibration.measured_assemblies)} whole networks: off by "
            f"{as_added.mean_absolute_error:.3g} ms as summed, by "
            f"{left_out.mean_absolute_error:.3g} ms corrected (each by the others)"
        )
    console.print(f"files for launch: {folder}/{experiment.name}-<rank>.yaml")
