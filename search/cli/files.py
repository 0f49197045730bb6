"""Commands about experiment files: check, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.show import Json, Set, as_json, as_table, console, parse_changes
from search.loading import load_experiment
from search.planning import plan as make_plan
from search.report.wording import duration

File = Annotated[Path, typer.Argument(help="Experiment file (YAML).")]


def check(file: File, changes: Set = None, json: Json = False) -> None:
    """Validate an experiment file; nothing is run."""
    experiment = load_experiment(file, parse_changes(changes))
    if json:
        as_json({"valid": True, "name": experiment.name, "searched": list(experiment.search)})
        return
    console.print(f"{file}: valid")
    if experiment.search:
        as_table(("searched", "values"), [(p, str(d)) for p, d in experiment.search.items()])


def plan(
    file: File,
    changes: Set = None,
    slots: Annotated[int, typer.Option(help="Trials at once, for the estimate.")] = 0,
    json: Json = False,
) -> None:
    """Show what a launch would run: the graph, what is there already, how long it may take."""
    planned = make_plan(load_experiment(file, parse_changes(changes)), slots)
    if json:
        as_json(planned.plain())
        return
    as_table(
        ("shared stage", "taught by", "parameters", "in library", "seconds"),
        [
            (s.label, ", ".join(s.teachers), s.parameters, "yes" if s.there else "no", s.seconds)
            for s in planned.stages
        ],
    )
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
