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

_END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL_SECONDS = 0.1
"""Seconds between two looks at the server."""
_END_TIMEOUT = 10.0
"""Seconds that a server has to end by itself."""


def port_problem(host: str, port: int) -> str:
    """Why no server can listen there; "" if one can."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def serve_ui(
    command: Sequence[str],
    environment_overrides: Mapping[str, str],
    host: str,
    port: int,
    on_ready: Callable[[], None],
) -> tuple[int, int]:
    """Run a server until it ends or this process gets SIGTERM, SIGINT or SIGHUP.

    The server has a process group of its own, and nothing of the group outlives this call.

    Args:
        settings: the environment beside this process's own.
        ready: called once, when something listens on the port.

    Returns the signal that ended it (0: none did) and the server's exit status.
    """
    signals: list[int] = []
    with _signals_collected(signals):
        environment = {**os.environ, **environment_overrides}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            is_announced = False
            while process.poll() is None and not signals:
                if not is_announced and _is_listening(host, port):
                    is_announced = True
                    on_ready()
                time.sleep(_POLL_SECONDS)
            status = process.returncode or 0
        finally:
            _end_group(process)
    return (signals[0] if signals else 0), status


@contextlib.contextmanager
def _signals_collected(signals: list[int]) -> Iterator[None]:
    """Note signals instead of ending, while the block runs; ``nohup`` still keeps SIGHUP away."""
    handled = [
        s for s in _END_SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN
    ]
    handlers = {s: signal.signal(s, lambda number, _: signals.append(number)) for s in handled}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_listening(host: str, port: int) -> bool:
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
        deadline = time.monotonic() + _END_TIMEOUT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()  # a process that has ended counts until it was asked
                os.killpg(process.pid, 0)
                time.sleep(_POLL_SECONDS)
            continue
        return
