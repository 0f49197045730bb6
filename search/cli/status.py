"""``stillhouse status``: how a search stands, whichever machine it runs on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from stillhouse.search.artifacts.existing import existing
from stillhouse.search.cli.live import counts, told_values
from stillhouse.search.cli.runs import Name
from stillhouse.search.cli.show import Json, as_json, as_table, console
from stillhouse.search.core.addresses import shown
from stillhouse.search.core.formatting import duration
from stillhouse.search.monitoring.publisher import FILE, Snapshot, silent_for, stilled
from stillhouse.search.monitoring.statuses import status_of
from stillhouse.search.results.run_folder import RunFolder, runs_root
from stillhouse.search.runs.kept import stand_of
from stillhouse.spaces.config.problems import ConfigError, Problem

Where = Annotated[
    str | None, typer.Option(help="The cluster it runs on: HOST:6379, auto or http://HOST:8265.")
]
Place = Annotated[
    str | None, typer.Option("--library", help="The library it uses, where that is a bucket.")
]


def status(name: Name, address: Where = None, library: Place = None, json: Json = False) -> None:
    """How a search stands: trials, stages, nodes, what waits for what, failures, time left."""
    told = _find(name, address, library)
    now = time.time()
    silent = silent_for(told, now)
    if silent is not None:
        told = stilled(told)
    if json:
        age = now - float(told["at"])
        as_json({**told, "age": age, "silent_for": silent})
        return
    for line in _head(told, now):
        console.print(line, markup=False)
    for columns, rows in _tables(told):
        if rows:
            console.print()
            as_table(columns, rows)
    for line in _troubles(told):
        console.print(line, markup=False)


def _find(name: str, address: str | None, library: str | None) -> Snapshot:
    """From the cluster, the library or this machine's runs, as asked.

    Raises:
        ConfigError: no such run is known there.
    """
    if address:
        from stillhouse.search.cluster.dashboard import Dashboard

        return Dashboard(address).status(name)
    if library:
        return status_of(name, existing(library).statuses(), shown(library))
    try:
        folder = RunFolder.find(name)
    except ConfigError as error:
        remedy = "name where it runs: --address CLUSTER, or --library PLACE"
        raise ConfigError(
            [Problem(p.path, f"{p.message}; {remedy}") for p in error.problems]
        ) from None
    told: Snapshot = folder.read_json(FILE)
    if not told and (folder.path / FILE).exists():
        remedy = f"a driver that runs writes it anew within a minute; else stillhouse best {name}"
        message = f"is damaged, as by a full disk; {remedy}"
        raise ConfigError([Problem(str(folder.path / FILE), message)])
    if not told:
        was = stand_of(folder).state
        message = f"has no {FILE}; its state is {was!r}; see `stillhouse best {folder.name}`"
        raise ConfigError([Problem(str(runs_root() / folder.name), message)])
    return told


def _head(told: Snapshot, now: float) -> Iterator[str]:
    trials, stages = told["trials"], told["stages"]
    silent, age = silent_for(told, now), now - float(told["at"])
    took = duration(told["seconds"])
    if silent is not None:
        host = told["driver"]["host"]
        yield f"{told['name']}: no sign of life for {duration(silent)}, after {took} of running"
        yield f"its driver on {host} was killed, or that machine is gone or cut off"
        yield f"go on with: stillhouse resume {told['name']}"
    elif told["state"] == "running":
        left = told["seconds_left"]
        rest = f", about {duration(left)} left" if left else ""
        quiet = now - float(told["heard"])
        yield f"{told['name']}: running for {took}{rest}"
        yield f"last sign of life {age:.0f} s ago, last news {duration(quiet)} ago"
    else:
        why = f" ({told['reason']})" if told["reason"] else ""
        yield f"{told['name']}: {told['state']}{why}, {duration(age)} ago, after {took}"
        if told["state"] in ("interrupted", "failed"):
            yield f"go on with: stillhouse resume {told['name']}"
    done, best = sum(trials["ended"].values()), trials["best"]
    so_far = f"{best['value']:.4f} (trial {best['trial']})" if best else "none yet"
    yield f"{done} of {trials['of']} trials: {counts(trials['ended'])}"
    yield f"best {told['goal']}: {so_far}"
    kinds = ("made", "reused", "running", "queued", "waiting", "failed")
    yield f"stages: {', '.join(f'{stages[kind]} {kind}' for kind in kinds)}"


def _tables(told: Snapshot) -> Iterator[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
    trials, stages = told["trials"], told["stages"]
    yield (
        ("running trial", "epoch", told["goal"], "values"),
        [
            (t["number"], _reached(t), _number(t["value"]), told_values(t["values"]))
            for t in trials["running"]
        ],
    )
    yield (
        ("waiting trial", "waits for"),
        [(t["number"], _some(t["for"]) or "a slot") for t in trials["waiting"]],
    )
    rows = [(s["label"], s["state"], _epoch(s), _place(s)) for s in stages["open"]]
    rows += [(s["label"], "waiting", "", _some(s["for"]) or "its turn") for s in stages["unborn"]]
    yield ("stage", "state", "epoch", "on, or waits for"), rows
    yield (
        ("node", "cpus taken", "gpus taken", ""),
        [
            (
                n["name"],
                f"{n['cpus_taken']:g} of {n['cpus']:g}",
                f"{n['gpus_taken']:g} of {n['gpus']:g}",
                "alive" if n["alive"] else "gone",
            )
            for n in told["nodes"]
        ],
    )
    yield ("failures",), [(line,) for line in told["failures"]]
    # Snapshots of before there were warnings have none.
    yield ("warnings",), [(line,) for line in told.get("warnings", ())]


def _troubles(told: Snapshot) -> Iterator[str]:
    tracking, unwritten = told["tracking"], told["library"]["unwritten"]
    if tracking["trouble"] or (tracking["unsent"] and told["state"] != "running"):
        why = f": {tracking['trouble']}" if tracking["trouble"] else ""
        yield f"\nMLflow has not got {tracking['unsent']} entries yet{why}"
    if tracking.get("refused"):  # not in the status files of earlier versions
        why = f": {tracking['refusal']}" if tracking["refusal"] else ""
        yield f"\nMLflow refused {tracking['refused']} entries, kept in tracking/refused.jsonl{why}"
    if unwritten:
        yield f"\nthis could not be written everywhere: {unwritten}"


def _some(labels: list[str], most: int = 4) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _epoch(stage: Snapshot) -> str:
    return f"{stage['epoch']} of {stage['epochs']}" if stage["state"] == "running" else ""


def _place(stage: Snapshot) -> str:
    """Where a stage is made, or what it waits for."""
    by_trial = ", in the slot of a trial that waits for it" if stage.get("in_trial") else ""
    return f"{stage['node']}{by_trial}" if stage["node"] else "a slot"


def _reached(trial: Snapshot) -> str:
    """A running trial's epoch, or what it waits for in its slot."""
    waits_for = trial["epoch"] == 0 and _some(trial.get("for", []))
    return f"waits for {waits_for}" if waits_for else str(trial["epoch"])
