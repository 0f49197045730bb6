"""All commands together, and how errors leave the program."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer

from stillhouse.search.cli import (
    about,
    diagnose,
    doctor,
    export,
    files,
    library,
    methods,
    runs,
    status,
    ui,
)
from stillhouse.search.core.addresses import scrub
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.driver.ending import FORBIDDEN_ERRNOS, FULL_ERRNOS
from stillhouse.spaces.config.problems import ConfigError

app = typer.Typer(
    name="stillhouse",
    help="Search for the best way to distil a large network into a small one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    runs.launch,
    runs.resume,
    runs.extend,
    files.check,
    files.plan,
    status.status,
    runs.best,
    runs.reuse,
    export.export,
    diagnose.diagnose,
    runs.report,
    ui.ui,
    methods.methods,
    about.networks,
    about.blocks,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(library.app, name="library")


def main() -> None:
    """Run the command line. A user's mistake, or a place that was lost, ends it with its lines
    and status 2; a stop with status 130."""
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
