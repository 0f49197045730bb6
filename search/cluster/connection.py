"""Connect to Ray: start it on this machine, or join the cluster at an address.

This module loads without torch, which takes seconds.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import ray

import stillhouse
from stillhouse.search.cluster.auth import ensure_token, present_token
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line

NAMESPACE = "stillhouse"
PACKAGES = ("stillhouse.search", "stillhouse.methods", "stillhouse.spaces")
"""Packages whose source files must be identical on all nodes."""
_LOCAL_RAY_CONFIG = {
    # Keep a worker that has loaded torch for the next stage.
    "idle_worker_killing_time_threshold_ms": 600_000,
    # Load these while the driver connects, not when the first stage arrives. The second module
    # imports the operations of every kind of stage.
    "preload_python_modules": [
        "stillhouse.search.execution.scheduler",
        "stillhouse.search.stages.assemble",
    ],
}
"""Settings of workers on a Ray that the search starts."""
WORKER_ENV = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default glibc returns freed memory at once and allocates it again in the next step.
    # This costs 15 % of a float32 step of a small network on a CPU.
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
}
"""Environment variables of workers."""


def connect(address: str | None) -> None:
    """Start Ray on this machine, or connect to the cluster at ``address``.

    A local Ray that this process has started before is reused.

    Raises:
        ConfigError: there is no cluster at that address, or Ray does not start here.
    """
    if not address and ray.is_initialized() and _current_namespace() == NAMESPACE:
        return
    if address and address.startswith(("http://", "https://")):
        message = (
            f"{address} is a dashboard, which takes searches as jobs: add --submit; or give "
            "HOST:6379 or auto, on a machine of the cluster"
        )
        raise ConfigError([Problem("--address", message)])
    for name, value in WORKER_ENV.items():
        os.environ.setdefault(name, value)
    runtime_env = None
    if address:
        runtime_env = {"py_modules": package_folders(), "env_vars": WORKER_ENV}
    check_listening(address)
    try:
        if address:
            present_token(address)
        else:
            ensure_token()
        ray.init(
            # Always an address: otherwise Ray uses one that a crashed run has left behind.
            address=address or "local",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if not address else None,
            runtime_env=runtime_env,
            _system_config=None if address else _LOCAL_RAY_CONFIG,
        )
    except Exception as error:  # Ray raises plain ones, for example if a start takes too long
        if address:
            raise cluster_error(address, error) from None
        raise _start_error(error) from None


def disconnect() -> None:
    """Leave the cluster, or stop the local Ray."""
    ray.shutdown()


def package_folders() -> list[str]:
    """The folder of this package: within a job, Ray cannot copy the module."""
    return [str(Path(stillhouse.__file__).parent)]


def current_node_name() -> str:
    """The name of this process's node."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return node_name(address, ray.get_runtime_context().get_node_id())


def node_name(address: str, node_id: str) -> str:
    """The address and the start of the id: two nodes of one machine share the address."""
    return f"{address} ({node_id[:6]})"


def head_address() -> str:
    """The ``HOST:PORT`` of the cluster's head."""
    return str(ray.get_runtime_context().gcs_address)


def cluster_error(address: str, error: Exception) -> ConfigError:
    """The reason why the cluster at an address cannot be used, in one line."""
    return ConfigError([Problem("--address", _refusal_message(address, error))])


def _start_error(error: Exception) -> ConfigError:
    """The reason why Ray did not start on this machine, and a remedy, in one line."""
    message = (
        f"Ray did not start on this machine: {first_line(error).rstrip('.')}; its logs are in "
        "/tmp/ray/session_latest/logs; try again when the machine is less busy and has memory "
        "free, or run without Ray: --inline"
    )
    return ConfigError([Problem("", message)])


def _refusal_message(address: str, error: Exception) -> str:
    message = " ".join(str(error).split())
    if "Version mismatch" in message:
        return f"{message}; install the same with constraints.txt on both"
    if isinstance(error, ray.exceptions.AuthenticationError):
        mode = os.environ.get("RAY_AUTH_MODE", "token")
        remedy = "" if mode.lower() == "token" else f"; and RAY_AUTH_MODE is {mode!r}, not 'token'"
        return (
            f"the cluster at {address} asks for its token: copy its ~/.ray/auth_token here, or set "
            f"RAY_AUTH_TOKEN{remedy}"
        )
    return f"no Ray cluster at {address}: {first_line(error)}"


def _current_namespace() -> str:
    context = ray.get_runtime_context()
    return str(context.namespace)


def check_listening(address: str | None) -> None:
    """Check that something answers at ``address``: Ray itself tries for over a minute.

    Raises:
        ConfigError: nothing answers.
    """
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdigit()) or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        message = f"nothing answers at {address}: {error}; is the cluster up?"
        raise ConfigError([Problem("--address", message)]) from None
