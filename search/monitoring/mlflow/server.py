"""MLflow's pages on a port of this machine, served as long as this process lives."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LOOK = 0.1
"""Seconds between two looks at the server."""
_PATIENCE = 10.0
"""Seconds that a server has to end by itself."""


def why_taken(host: str, port: int) -> str:
    """Why no server can listen there; "" if one can."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def serve(
    command: Sequence[str],
    settings: Mapping[str, str],
    host: str,
    port: int,
    ready: Callable[[], None],
) -> tuple[int, int]:
    """Run a server until it ends or this process gets SIGTERM, SIGINT or SIGHUP.

    The server has a process group of its own, and nothing of the group outlives this call.

    Args:
        settings: the environment beside this process's own.
        ready: called once, when something listens on the port.

    Returns the signal that ended it (0: none did) and the server's exit status.
    """
    signals: list[int] = []
    with _noted(signals):
        environment = {**os.environ, **settings}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            told = False
            while process.poll() is None and not signals:
                if not told and _listens(host, port):
                    told = True
                    ready()
                time.sleep(_LOOK)
            status = process.returncode or 0
        finally:
            _end_group(process)
    return (signals[0] if signals else 0), status


@contextlib.contextmanager
def _noted(signals: list[int]) -> Iterator[None]:
    """Note signals instead of ending, while the block runs; ``nohup`` still keeps SIGHUP away."""
    heard = [s for s in _ENDING if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    before = {s: signal.signal(s, lambda number, _: signals.append(number)) for s in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, in good time or by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _PATIENCE
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()  # a process that has ended counts until it was asked
                os.killpg(process.pid, 0)
                time.sleep(_LOOK)
            continue
        return
