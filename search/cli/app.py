"""The command group, and the exit status and output of errors."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, ClassVar

import typer

import stillhouse
from stillhouse.search.cli.lazy_group import CommandHome, LazyGroup
from stillhouse.search.core.addresses import scrub
from stillhouse.search.core.errors import FORBIDDEN_ERRNOS, FULL_ERRNOS, StorageUnavailable
from stillhouse.spaces.config.problems import ConfigError

COMMANDS = {
    "launch": ("runs", "Run the search that a file describes."),
    "resume": ("runs", "Continue a run that was stopped; nothing finished is repeated."),
    "extend": (
        "runs",
        "Add trials to a run that has ended; the sampler knows the earlier ones.",
    ),
    "check": ("check", "Validate an experiment file; run nothing."),
    "plan": (
        "plan",
        "Show what a launch would run, or with --budget or --front, propose assemblies.",
    ),
    "status": (
        "status",
        "Show the status of a search: trials, stages, nodes, waiting, failures, time left.",
    ),
    "best": ("runs", "Show the best configuration of a run, and how certain it is."),
    "reuse": (
        "runs",
        "Retrain the best recipe over seeds, evaluate it on the test split, register the winner.",
    ),
    "export": (
        "export",
        "Write the best student as files with a model card, and compare them with the original.",
    ),
    "diagnose": (
        "diagnose",
        "Measure how sure a teacher is, how it relates classes, and which of these help a student.",
    ),
    "report": (
        "runs",
        "Draw a run's pictures and page again, from the library and the study.",
    ),
    "ui": ("ui", "Open MLflow on the tracking store; Ctrl-C ends it."),
    "methods": (
        "methods",
        "List the methods, or show one: paper, formula, settings, needs, presets.",
    ),
    "networks": ("about", "List the ready-made networks with their parameters and FLOPs."),
    "blocks": ("about", "List the replacement blocks with their settings, defaults and ranges."),
    "doctor": (
        "doctor",
        "Check versions, devices, disk, library, runs and tracking.",
    ),
    "library": ("library", "List, show, verify or delete artifacts of a library."),
}
"""Name of a command -> its module in this package, and its help line."""


class _Commands(LazyGroup):
    homes: ClassVar = {
        name: CommandHome(f"stillhouse.search.cli.{module}", help_line)
        for name, (module, help_line) in COMMANDS.items()
    }


app = typer.Typer(
    name="stillhouse",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"stillhouse {stillhouse.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Search for the best way to distil a large network into a small one."""


def main() -> None:
    """Run the command line.

    A user's mistake or unavailable storage ends it with status 2, one line for each problem. A
    stop ends it with status 130.
    """
    try:
        app()
    except (ConfigError, StorageUnavailable) as error:
        problems = error.problems if isinstance(error, ConfigError) else [error.problem]
        sys.exit(_print_problems(map(str, problems)))
    except OSError as error:
        if error.errno not in FULL_ERRNOS + FORBIDDEN_ERRNOS:
            raise
        sys.exit(
            _print_problems([f"{error.filename or 'a file'} cannot be used: {error.strerror}"])
        )
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(130)


def _print_problems(problems: Iterable[str]) -> int:
    """Print each problem as a line; returns the exit status."""
    for problem in problems:
        print(f"error: {scrub(problem)}", file=sys.stderr)
    return 2
