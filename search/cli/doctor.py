"""``stillhouse doctor``: whether this machine, or every node of a cluster, is fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.search.artifacts.places import absolute
from stillhouse.search.cli.show import Json, as_json, as_table, console
from stillhouse.search.cluster.diagnostics import here
from stillhouse.search.monitoring.mlflow import resolve_uri


def doctor(
    library: str = "stillhouse-library",
    tracking: Annotated[str | None, typer.Option(help="MLflow's URI.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Look at every node of this Ray cluster as well.")
    ] = None,
    json: Json = False,
) -> None:
    """Versions, devices, disk, and whether library, runs and tracking can be used."""
    uri = resolve_uri(tracking, Path.cwd())
    findings = {"here": here(library, uri)}
    if address:
        from stillhouse.search.cluster.nodes import examine

        findings |= examine(address, absolute(library), uri)
    rows = [{"node": n, **finding.plain()} for n, some in findings.items() for finding in some]
    if json:
        as_json(rows)
    else:
        _show(rows, bool(address))
    if not all(row["good"] for row in rows):
        console.print("some checks failed", style="red")
        raise typer.Exit(1)


def _show(rows: list[dict[str, str | bool]], several: bool) -> None:
    columns = ("node",) * several + ("what", "found")
    as_table(
        (*columns, ""),
        [
            (*(row[column] for column in columns), "ok" if row["good"] else _problem(row))
            for row in rows
        ],
    )


def _problem(row: dict[str, str | bool]) -> str:
    return f"PROBLEM: {row['remedy']}" if row["remedy"] else "PROBLEM"
