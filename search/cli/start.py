"""The entry point: Ray starts while this process imports the modules of a search."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SEARCH_COMMANDS = ("launch", "resume", "extend", "reuse")
_OPTIONS_WITHOUT_RAY = {"--address", "--inline", "--help", "-h"}


def main() -> None:
    """Start Ray if the command is a local search, then run the command line."""
    try:
        if starts_ray(sys.argv[1:]):
            _start_ray()
        from stillhouse.search.cli.app import main as run
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    run()


def starts_ray(arguments: Sequence[str]) -> bool:
    """Whether the arguments start a search on a local Ray.

    A wrong guess costs only time: an unused Ray ends with the program, and a missing one is
    started later.
    """
    options = {word.partition("=")[0] for word in arguments}
    if len(arguments) < 2 or arguments[0] not in _SEARCH_COMMANDS or options & _OPTIONS_WITHOUT_RAY:
        return False
    return arguments[0] != "launch" or any(Path(word).is_file() for word in arguments[1:])


def _start_ray() -> None:
    """Start Ray in this thread, and import the modules of a search in another one.

    Ray needs the main thread: its processes end with the thread that started them.
    """
    from stillhouse.search.cluster.connection import connect
    from stillhouse.spaces.config.problems import ConfigError

    with ThreadPoolExecutor(1) as executor:
        # An error there is raised again by the next import of the module.
        executor.submit(
            _import_modules, ("stillhouse.search.cli.runs", "stillhouse.search.tuning.ray_backend")
        )
        with contextlib.suppress(ConfigError):  # the search tries again, and reports it
            connect(None)


def _import_modules(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
