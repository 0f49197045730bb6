"""Serves MLflow's pages on a port of this machine while this process lives."""

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
"""Seconds between two checks of the server."""
_END_TIMEOUT = 10.0
"""Seconds that the server gets to end by itself."""


def port_problem(host: str, port: int) -> str:
    """Why no server can listen on the port; "" if one can."""
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

    The server has its own process group, and no process of the group outlives this call.

    Args:
        command: of the server.
        environment_overrides: variables added to this process's environment.
        host: where the server listens.
        port: on which it listens.
        on_ready: called once, when the server listens.

    Returns:
        The signal that ended it (0 for none) and the server's exit status.
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
    """Collect signals instead of ending, while the block runs; an ignored SIGHUP stays ignored."""
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
    """End a process group with SIGTERM, and with SIGKILL after a timeout."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _END_TIMEOUT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()  # reaps it; a zombie still counts as alive
                os.killpg(process.pid, 0)
                time.sleep(_POLL_SECONDS)
            continue
        return
