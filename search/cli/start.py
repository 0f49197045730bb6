"""Where the program begins. Ray's processes start while this one still imports what it needs."""

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
    """Run the command line: :func:`stillhouse.search.cli.app.main`, after a start of Ray if it is
    of use."""
    try:
        if starts_ray(sys.argv[1:]):
            _start_ray()
        from stillhouse.search.cli.app import main as run
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    run()


def starts_ray(arguments: Sequence[str]) -> bool:
    """Whether these words ask for a search on a Ray of its own on this machine.

    A guess that costs nothing but time: a Ray that is not wanted after all ends with the program,
    and one that is wanted and was not started is started later.
    """
    options = {word.partition("=")[0] for word in arguments}
    if len(arguments) < 2 or arguments[0] not in _SEARCH_COMMANDS or options & _OPTIONS_WITHOUT_RAY:
        return False
    return arguments[0] != "launch" or any(Path(word).is_file() for word in arguments[1:])


def _start_ray() -> None:
    """Start Ray here, where its processes may be born, and import the rest in another thread.

    Ray's processes die with the thread that started them, so it cannot be the other way round.
    """
    from stillhouse.search.cluster.connection import connect
    from stillhouse.spaces.config.problems import ConfigError

    with ThreadPoolExecutor(1) as executor:
        # What goes wrong there goes wrong again, and is told, where it is imported next.
        executor.submit(
            _import_modules, ("stillhouse.search.cli.runs", "stillhouse.search.tuning.ray_backend")
        )
        with contextlib.suppress(ConfigError):  # tried again, and told, by what searches
            connect(None)


def _import_modules(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
