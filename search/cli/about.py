"""Commands about what is there: networks, blocks, this machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from search.address import shown
from search.cli.show import Json, as_json, as_table, console
from search.folder import runs_root
from search.library.store import Library
from search.make import versions
from search.tracking import reachable, resolve_uri
from spaces.blocks import BLOCKS
from spaces.cost import network_costs
from spaces.networks import sizes
from spaces.problem import ConfigError


def blocks(json: Json = False) -> None:
    """Every kind of replacement block, its settings, defaults and ranges."""
    rows = []
    for name, config in ((name, BLOCKS.load(name)) for name in BLOCKS.names()):
        ranges = {field: str(domain) for field, domain in config.space().items()}
        none = {"block": name, "setting": "", "default": "", "range": "", "meaning": ""}
        rows += [
            {
                "block": name,
                "setting": field,
                "default": str(info.default),
                "range": ranges.get(field, ""),
                "meaning": info.description or "",
            }
            for field, info in config.model_fields.items()
        ] or [none]
    if json:
        as_json(rows)
        return
    columns = ("block", "setting", "default", "range", "meaning")
    as_table(columns, [[row[column] for column in columns] for row in rows])


def networks(
    shape: Annotated[str, typer.Option(help="channels,height,width")] = "3,32,32",
    classes: int = 10,
    json: Json = False,
) -> None:
    """Every ready-made network with its parameters and FLOPs."""
    rows: list[dict[str, Any]] = []
    channels, height, width = (int(part) for part in shape.split(","))
    for name, (family, _) in sizes().items():
        row: dict[str, Any] = {"network": name, "family": family}
        try:
            costs = network_costs(name, (channels, height, width), classes)
            row |= {"parameters": costs.parameters, "flops": costs.flops}
        except ConfigError as error:
            row |= {"parameters": None, "flops": None, "note": str(error)}
        rows.append(row)
    if json:
        as_json(rows)
        return
    as_table(
        ("network", "family", "parameters", "FLOPs an image"),
        [(r["network"], r["family"], r["parameters"] or "-", r["flops"] or "-") for r in rows],
    )


def doctor(
    library: str = "stillhouse-library",
    tracking: Annotated[str | None, typer.Option(help="MLflow's URI.")] = None,
    json: Json = False,
) -> None:
    """Versions, devices, and whether library, runs and tracking can be used."""
    findings: list[dict[str, Any]] = [
        {"what": name, "found": version, "good": True} for name, version in versions().items()
    ]
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"cpu, {os.cpu_count()} cores"
    findings.append({"what": "device", "found": device, "good": True})
    findings.append(_tried("torchvision operators", _operators))
    findings.append(_tried(f"library {shown(library)}", lambda: Library(library).check_writable()))
    findings.append(_tried(f"runs {runs_root()}", _probe_runs))
    uri = resolve_uri(tracking, Path.cwd())
    findings.append(_tried(f"tracking {shown(uri)}", lambda: reachable(uri)))
    if json:
        as_json(findings)
    else:
        as_table(
            ("what", "found", ""),
            [(f["what"], f["found"], "ok" if f["good"] else "PROBLEM") for f in findings],
        )
    if not all(finding["good"] for finding in findings):
        console.print("some checks failed", style="red")
        raise typer.Exit(1)


def _tried(what: str, check: Any) -> dict[str, Any]:
    try:
        check()
    except (ConfigError, OSError, RuntimeError) as error:
        return {"what": what, "found": str(error), "good": False}
    return {"what": what, "found": "works", "good": True}


def _operators() -> None:
    """torchvision's compiled operators load only beside the torch they were built with."""
    import torchvision

    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0])
    torchvision.ops.nms(boxes, scores, 0.5)


def _probe_runs() -> None:
    runs_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=runs_root()):
        pass
