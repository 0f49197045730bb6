"""All commands together, and how errors leave the program."""

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
    "resume": ("runs", "Go on with a run that was stopped; nothing finished is done again."),
    "extend": (
        "runs",
        "More trials for a run that has ended; its sampler knows all earlier ones.",
    ),
    "check": ("check", "Validate an experiment file; nothing is run."),
    "plan": (
        "plan",
        "Show what a launch would run, or, with --budget or --front, what the library's parts "
        "make.",
    ),
    "status": (
        "status",
        "How a search stands: trials, stages, nodes, what waits for what, failures, time left.",
    ),
    "best": ("runs", "The best configuration of a run, and how sure that is."),
    "reuse": (
        "runs",
        "Retrain the best recipe over seeds, look at the test split once, register the winner.",
    ),
    "export": (
        "export",
        "Write the best student as files, compared with the original, and a model card beside "
        "them.",
    ),
    "diagnose": (
        "diagnose",
        "Tell how sure a teacher is, how it relates classes, and what of that helps the student.",
    ),
    "report": (
        "runs",
        "Draw a run's pictures and page again from what the library and the study hold.",
    ),
    "ui": ("ui", "Open MLflow on the tracking store; Ctrl-C ends it."),
    "methods": (
        "methods",
        "Every method in a line; or all of one: paper, formula, fields, needs, presets.",
    ),
    "networks": ("about", "Every ready-made network with its parameters and FLOPs."),
    "blocks": ("about", "Every kind of replacement block, its settings, defaults and ranges."),
    "doctor": (
        "doctor",
        "Versions, devices, disk, and whether library, runs and tracking can be used.",
    ),
    "library": ("library", "What is kept in a library."),
}
"""Name -> its module beside this one, and the first paragraph of its help (tested)."""


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

    A user's mistake or unavailable storage ends it with one line each and status 2; a stop ends
    it with status 130.
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
    """Print each problem as a line; returns the status."""
    for problem in problems:
        print(f"error: {scrub(problem)}", file=sys.stderr)
    return 2
