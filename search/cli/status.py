"""``stillhouse status``: shows the status of a search on any machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from stillhouse.search.artifacts.existing import open_existing
from stillhouse.search.cli.live import settings_text, state_counts_text
from stillhouse.search.cli.options import JsonOption, RunArgument
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.core.addresses import for_display
from stillhouse.search.core.formatting import format_duration
from stillhouse.search.monitoring.publisher import (
    STATUS_FILE,
    Snapshot,
    heartbeat_overdue,
    without_activity,
)
from stillhouse.search.monitoring.statuses import latest_status
from stillhouse.search.results.run_folder import RunFolder, runs_root
from stillhouse.search.runs.kept import run_state
from stillhouse.spaces.config.problems import ConfigError, Problem

AddressOption = Annotated[
    str | None, typer.Option(help="Cluster of the search: HOST:6379, auto or http://HOST:8265.")
]
LibraryOption = Annotated[
    str | None, typer.Option("--library", help="Library of the search, if it is a bucket.")
]


def status(
    name: RunArgument,
    address: AddressOption = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show the status of a search: trials, stages, nodes, waiting, failures, time left."""
    snapshot = _find_snapshot(name, address, library)
    now = time.time()
    silence = heartbeat_overdue(snapshot, now)
    if silence is not None:
        snapshot = without_activity(snapshot)
    if json:
        age = now - float(snapshot["at"])
        print_json({**snapshot, "age": age, "silent_for": silence})
        return
    for line in _headline(snapshot, now):
        console.print(line, markup=False)
    for columns, rows in _tables(snapshot):
        if rows:
            console.print()
            print_table(columns, rows)
    for line in _problem_lines(snapshot):
        console.print(line, markup=False)


def _find_snapshot(name: str, address: str | None, library: str | None) -> Snapshot:
    """The status of a run, from the cluster, the library or the runs of this machine.

    Raises:
        ConfigError: there is no such run, or its status is damaged.
    """
    if address:
        from stillhouse.search.cluster.dashboard import ClusterDashboard

        return ClusterDashboard(address).status(name)
    if library:
        return latest_status(name, open_existing(library).statuses(), for_display(library))
    try:
        folder = RunFolder.find(name)
    except ConfigError as error:
        remedy = "name its cluster or library: --address CLUSTER, or --library PLACE"
        raise ConfigError(
            [Problem(p.path, f"{p.message}; {remedy}") for p in error.problems]
        ) from None
    snapshot: Snapshot = folder.read_json(STATUS_FILE)
    if not snapshot and (folder.path / STATUS_FILE).exists():
        remedy = f"a running driver writes it again within a minute; else stillhouse best {name}"
        message = f"is damaged, as by a full disk; {remedy}"
        raise ConfigError([Problem(str(folder.path / STATUS_FILE), message)])
    if not snapshot:
        state = run_state(folder).state
        message = (
            f"has no {STATUS_FILE}; its state is {state!r}; see `stillhouse best {folder.name}`"
        )
        raise ConfigError([Problem(str(runs_root() / folder.name), message)])
    return snapshot


def _headline(snapshot: Snapshot, now: float) -> Iterator[str]:
    trials, stages = snapshot["trials"], snapshot["stages"]
    silence, age = heartbeat_overdue(snapshot, now), now - float(snapshot["at"])
    run_time = format_duration(snapshot["seconds"])
    if silence is not None:
        host = snapshot["driver"]["host"]
        silent_time = format_duration(silence)
        yield f"{snapshot['name']}: no sign of life for {silent_time}, after {run_time} of running"
        yield f"its driver on {host} was killed, or that machine is off or unreachable"
        yield f"go on with: stillhouse resume {snapshot['name']}"
    elif snapshot["state"] == "running":
        seconds_left = snapshot["seconds_left"]
        remaining = f", about {format_duration(seconds_left)} left" if seconds_left else ""
        event_age = now - float(snapshot["heard"])
        yield f"{snapshot['name']}: running for {run_time}{remaining}"
        yield f"last sign of life {age:.0f} s ago, last news {format_duration(event_age)} ago"
    else:
        reason = f" ({snapshot['reason']})" if snapshot["reason"] else ""
        state = f"{snapshot['state']}{reason}"
        yield f"{snapshot['name']}: {state}, {format_duration(age)} ago, after {run_time}"
        if snapshot["state"] in ("interrupted", "failed"):
            yield f"go on with: stillhouse resume {snapshot['name']}"
    done, best_trial = sum(trials["ended"].values()), trials["best"]
    best_text = (
        f"{best_trial['value']:.4f} (trial {best_trial['trial']})" if best_trial else "none yet"
    )
    yield f"{done} of {trials['of']} trials: {state_counts_text(trials['ended'])}"
    yield f"best {snapshot['goal']}: {best_text}"
    kinds = ("made", "reused", "running", "queued", "waiting", "failed")
    yield f"stages: {', '.join(f'{stages[kind]} {kind}' for kind in kinds)}"


def _tables(snapshot: Snapshot) -> Iterator[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
    trials, stages = snapshot["trials"], snapshot["stages"]
    yield (
        ("running trial", "epoch", snapshot["goal"], "values"),
        [
            (t["number"], _progress_text(t), _number_text(t["value"]), settings_text(t["values"]))
            for t in trials["running"]
        ],
    )
    yield (
        ("waiting trial", "waits for"),
        [(t["number"], _shorten_list(t["for"]) or "a slot") for t in trials["waiting"]],
    )
    rows = [(s["label"], s["state"], _epoch_text(s), _location_text(s)) for s in stages["open"]]
    rows += [
        (s["label"], "waiting", "", _shorten_list(s["for"]) or "its turn") for s in stages["unborn"]
    ]
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
            for n in snapshot["nodes"]
        ],
    )
    yield ("failures",), [(line,) for line in snapshot["failures"]]
    # Snapshots of earlier versions have no warnings.
    yield ("warnings",), [(line,) for line in snapshot.get("warnings", ())]


def _problem_lines(snapshot: Snapshot) -> Iterator[str]:
    tracking, unwritten = snapshot["tracking"], snapshot["library"]["unwritten"]
    if tracking["trouble"] or (tracking["unsent"] and snapshot["state"] != "running"):
        reason = f": {tracking['trouble']}" if tracking["trouble"] else ""
        yield f"\nMLflow has not got {tracking['unsent']} entries yet{reason}"
    if tracking.get("refused"):  # not in the status files of earlier versions
        reason = f": {tracking['refusal']}" if tracking["refusal"] else ""
        file = "tracking/refused.jsonl"
        yield f"\nMLflow refused {tracking['refused']} entries, kept in {file}{reason}"
    if unwritten:
        yield f"\nthis status could not be written everywhere: {unwritten}"


def _shorten_list(labels: list[str], max_labels: int = 4) -> str:
    rest_text = f" and {len(labels) - max_labels} more" if len(labels) > max_labels else ""
    return ", ".join(labels[:max_labels]) + rest_text


def _number_text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _epoch_text(stage: Snapshot) -> str:
    return f"{stage['epoch']} of {stage['epochs']}" if stage["state"] == "running" else ""


def _location_text(stage: Snapshot) -> str:
    """The node of a stage, or the resource that it waits for."""
    by_trial = ", in the slot of a trial that waits for it" if stage.get("in_trial") else ""
    return f"{stage['node']}{by_trial}" if stage["node"] else "a slot"


def _progress_text(trial: Snapshot) -> str:
    """A running trial's epoch, or the stages that it waits for."""
    waits_for = trial["epoch"] == 0 and _shorten_list(trial.get("for", []))
    return f"waits for {waits_for}" if waits_for else str(trial["epoch"])
