"""Ray: started on this machine, or the cluster at an address. Imported before torch is."""

from __future__ import annotations

import logging
import os
import socket

import ray

from search.admission import keep_token, show_token
from spaces.problem import ConfigError, Problem

NAMESPACE = "stillhouse"
_OWN_WORKERS = {
    # A worker that has loaded torch is kept for the next stage.
    "idle_worker_killing_time_threshold_ms": 600_000,
    # Loaded while the driver still connects, not when the first stage arrives. The second
    # brings the work of every kind of stage with it.
    "preload_python_modules": ["search.foundry", "search.stages.assemble"],
}
"""How workers are kept on a Ray of our own."""
_WORKERS_READ = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # glibc gives freed memory back at once and asks for it again in the next step: 15 % of a
    # float32 step of a small network on a CPU.
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
}
"""What workers find in their environment."""


def connect(address: str | None) -> None:
    """Start Ray on this machine, or connect to the cluster at ``address``.

    One that was started here ahead of the search is taken as it is.

    Raises:
        ConfigError: there is no cluster at that address.
    """
    if not address and ray.is_initialized() and _namespace() == NAMESPACE:
        return
    for name, value in _WORKERS_READ.items():
        os.environ.setdefault(name, value)
    shipped = None
    if address:
        import methods
        import search
        import spaces

        shipped = {"py_modules": [search, methods, spaces], "env_vars": _WORKERS_READ}
    _check_listening(address)
    try:
        if address:
            show_token(address)
        else:
            keep_token()
        ray.init(
            # Never neither: a crashed run leaves an address behind that would be picked up.
            address=address or "local",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if not address else None,
            runtime_env=shipped,
            _system_config=None if address else _OWN_WORKERS,
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if not address:
            raise
        raise ConfigError([Problem("--address", _refusal(address, error))]) from None


def _refusal(address: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "Version mismatch" in said:
        return f"{said}; install the same with constraints.txt on both"
    if isinstance(error, ray.exceptions.AuthenticationError):
        mode = os.environ.get("RAY_AUTH_MODE", "token")
        remedy = "" if mode.lower() == "token" else f"; and RAY_AUTH_MODE is {mode!r}, not 'token'"
        return (
            f"the cluster at {address} asks for its token: copy its ~/.ray/auth_token here, or set "
            f"RAY_AUTH_TOKEN{remedy}"
        )
    return f"no Ray cluster at {address}: {str(error).splitlines()[0]}"


def _namespace() -> str:
    context = ray.get_runtime_context()
    return str(context.namespace)


def _check_listening(address: str | None) -> None:
    """Ray itself tries a dead address for over a minute."""
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdigit()) or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        message = f"nothing answers at {address}: {error}; is the cluster up?"
        raise ConfigError([Problem("--address", message)]) from None
