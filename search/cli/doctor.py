"""``stillhouse doctor``: checks this machine and the nodes of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.search.artifacts.places import absolute_address
from stillhouse.search.cli.options import JsonOption
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.cluster.diagnostics import check_driver
from stillhouse.search.monitoring.mlflow import resolve_uri


def doctor(
    library: str = "stillhouse-library",
    tracking: Annotated[str | None, typer.Option(help="MLflow's URI.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Also check every node of this Ray cluster.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check versions, devices, disk, library, runs and tracking."""
    uri = resolve_uri(tracking, Path.cwd())
    findings_by_node = {"here": check_driver(library, uri)}
    if address:
        from stillhouse.search.cluster.nodes import check_cluster

        findings_by_node |= check_cluster(address, absolute_address(library), uri)
    rows = [
        {"node": n, **finding.plain()}
        for n, findings in findings_by_node.items()
        for finding in findings
    ]
    if json:
        print_json(rows)
    else:
        _print_findings(rows, bool(address))
    if not all(row["good"] for row in rows):
        console.print("some checks failed", style="red")
        raise typer.Exit(1)


def _print_findings(rows: list[dict[str, str | bool]], has_nodes: bool) -> None:
    columns = ("node",) * has_nodes + ("what", "found")
    print_table(
        (*columns, ""),
        [
            (*(row[column] for column in columns), "ok" if row["good"] else _problem_text(row))
            for row in rows
        ],
    )


def _problem_text(row: dict[str, str | bool]) -> str:
    return f"PROBLEM: {row['remedy']}" if row["remedy"] else "PROBLEM"
