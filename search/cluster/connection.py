"""Ray: started on this machine, or the cluster at an address. Imported before torch is."""

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
"""The packages whose files must be the same on all nodes."""
_LOCAL_RAY_CONFIG = {
    # A worker that has loaded torch is kept for the next stage.
    "idle_worker_killing_time_threshold_ms": 600_000,
    # Loaded while the driver still connects, not when the first stage arrives. The second
    # brings the work of every kind of stage with it.
    "preload_python_modules": [
        "stillhouse.search.execution.scheduler",
        "stillhouse.search.stages.assemble",
    ],
}
"""How workers are kept on a Ray of our own."""
WORKER_ENV = {
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
            # Never neither: a crashed run leaves an address behind that would be picked up.
            address=address or "local",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if not address else None,
            runtime_env=runtime_env,
            _system_config=None if address else _LOCAL_RAY_CONFIG,
        )
    except Exception as error:  # Ray raises bare ones, as where a start takes too long
        if address:
            raise cluster_error(address, error) from None
        raise _start_error(error) from None


def package_folders() -> list[str]:
    """The folder of the package here; not the module, which Ray cannot copy within a job."""
    return [str(Path(stillhouse.__file__).parent)]


def current_node_name() -> str:
    """What the node of this process is called."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return node_name(address, ray.get_runtime_context().get_node_id())


def node_name(address: str, node_id: str) -> str:
    """An address alone does not tell two nodes of one machine apart."""
    return f"{address} ({node_id[:6]})"


def logs_folder() -> Path | None:
    """Where the cluster keeps the logs of this node, which its dashboard shows to who asks."""
    node = ray._private.worker._global_node
    return Path(node.get_logs_dir_path()) if node is not None else None


def head_address() -> str | None:
    """Where the cluster's head listens; None where this process is on no node of it."""
    node = ray._private.worker._global_node
    return str(node.gcs_address) if node is not None else None


def cluster_error(address: str, error: Exception) -> ConfigError:
    """Why the cluster at an address cannot be used, in one line."""
    return ConfigError([Problem("--address", _refusal_message(address, error))])


def _start_error(error: Exception) -> ConfigError:
    """Why there is no Ray on this machine, in one line with what helps."""
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
    """Ray itself tries a dead address for over a minute.

    Raises:
        ConfigError: nothing answers there.
    """
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdigit()) or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        message = f"nothing answers at {address}: {error}; is the cluster up?"
        raise ConfigError([Problem("--address", message)]) from None
