"""``stillhouse networks`` and ``stillhouse blocks``: the ready-made networks and blocks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stillhouse.search.cli.options import JsonOption
from stillhouse.search.cli.show import print_json, print_table
from stillhouse.spaces.blocks import BLOCKS
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.networks import sizes


def blocks(json: JsonOption = False) -> None:
    """List the replacement blocks with their settings, defaults and ranges."""
    rows = []
    for name, config in ((name, BLOCKS.load(name)) for name in BLOCKS.names()):
        ranges = {field: str(domain) for field, domain in config.search_space().items()}
        empty_row = {"block": name, "setting": "", "default": "", "range": "", "meaning": ""}
        rows += [
            {
                "block": name,
                "setting": field,
                "default": str(info.default),
                "range": ranges.get(field, ""),
                "meaning": info.description or "",
            }
            for field, info in config.model_fields.items()
        ] or [empty_row]
    if json:
        print_json(rows)
        return
    columns = ("block", "setting", "default", "range", "meaning")
    print_table(columns, [[row[column] for column in columns] for row in rows])


def networks(
    shape: Annotated[str, typer.Option(help="channels,height,width")] = "3,32,32",
    classes: int = 10,
    json: JsonOption = False,
) -> None:
    """List the ready-made networks with their parameters and FLOPs."""
    rows: list[dict[str, Any]] = []
    channels, height, width = (int(part) for part in shape.split(","))
    for name, (family, _) in sizes().items():
        network_row: dict[str, Any] = {"network": name, "family": family}
        try:
            costs = network_costs(name, (channels, height, width), classes)
            network_row |= {"parameters": costs.parameters, "flops": costs.flops}
        except ConfigError as error:
            network_row |= {"parameters": None, "flops": None, "note": str(error)}
        rows.append(network_row)
    if json:
        print_json(rows)
        return
    print_table(
        ("network", "family", "parameters", "FLOPs an image"),
        [(r["network"], r["family"], r["parameters"] or "-", r["flops"] or "-") for r in rows],
    )
