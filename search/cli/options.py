"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.search.core.addresses import scrub
from stillhouse.search.experiment.yaml_source import parse_document
from stillhouse.spaces.config.problems import ConfigError, Problem

FileArgument = Annotated[Path, typer.Argument(help="Experiment file (YAML).")]
RunArgument = Annotated[
    str, typer.Argument(help="A run (name-3), or an experiment: its newest run.")
]
AddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster; 'auto': the cluster of this machine.")
]
InlineOption = Annotated[bool, typer.Option("--inline", help="Run in this process, without Ray.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Replace a value of the file; repeatable."),
]


def parse_overrides(pairs: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """Parse ``PATH=VALUE`` pairs; the values are YAML.

    Raises:
        ConfigError: a pair without ``=``, or a value that is not YAML.
    """
    overrides = {}
    for pair in pairs or []:
        path, separator, text = pair.partition("=")
        if not (path and separator):
            raise ConfigError([Problem(option, f"needs PATH=VALUE, found {scrub(pair)!r}")])
        try:
            overrides[path] = parse_document(text).data
        except ConfigError:
            message = f"the value of {scrub(pair)!r} is not YAML"
            raise ConfigError([Problem(option, message)]) from None
    return overrides
