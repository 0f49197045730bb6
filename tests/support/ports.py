"""Free TCP ports of this machine."""

import contextlib
import socket


def free_ports(count):
    """Distinct ports on which nothing listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def free_port(above=0):
    """A port on which nothing listens, higher than ``above``."""
    while True:
        (port,) = free_ports(1)
        if port > above:
            return port
