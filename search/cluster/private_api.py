"""The parts of Ray without a public name, in one file, as Ray 2.60.0 has them.

Other modules call these functions only. A test calls each one on the installed Ray.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SEEN_IN = "2.60.0"
"""The version of Ray in which these parts were seen."""


def logs_folder() -> Path | None:
    """The folder of this node's logs; None if this process is on no node."""
    node = ray._private.worker._global_node
    return Path(node.get_logs_dir_path()) if node is not None else None


def available_resources_by_node() -> Mapping[str, Mapping[str, float]]:
    """The free resources of each node, by the node's id."""
    state: Any = ray._private.state
    resources: Mapping[str, Mapping[str, float]] = state.available_resources_per_node()
    return resources


def draining_node_ids() -> Collection[str]:
    """The ids of the nodes that are about to be taken away."""
    from ray._private.state import state

    node_ids: Collection[str] = state.get_draining_nodes()
    return node_ids


def load_token() -> None:
    """Load the user's token if ``RAY_AUTH_MODE`` asks for one; create none.

    Raises:
        ray.exceptions.AuthenticationError: there is no token.
    """
    ensure_token_if_auth_enabled(None, create_token_if_missing=False)


def has_token() -> bool:
    """Whether there is a token, even if ``RAY_AUTH_MODE`` disables it."""
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def set_token_mode() -> None:
    """Make this process and its children present and require the token."""
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")  # Ray has read the environment of this process before


def ping_head(address: str) -> None:
    """Connect to the head's database.

    Raises:
        Exception: the head does not answer, or rejects the token (``InvalidAuthToken``).
    """
    GcsClient(address=services.canonicalize_bootstrap_address(address))


def dashboard_url(address: str) -> str:
    """The URL of the dashboard of the cluster at ``address``."""
    from ray.dashboard.utils import ray_address_to_api_server_url

    return str(ray_address_to_api_server_url(address))


def dashboard_client(url: str, timeouts: tuple[float, float]) -> JobSubmissionClient:
    """Ray's client of a dashboard, with time limits: Ray's own client waits for ever."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, **{"timeout": timeouts, **kwargs})

    return Client(url)


def dashboard_get(client: JobSubmissionClient, path: str) -> tuple[int, str]:
    """The status code and the text that a dashboard answers.

    Raises:
        OSError: the dashboard does not answer.
    """
    reply = client._do_request("GET", path)
    return reply.status_code, reply.text


def is_train_error(error: BaseException) -> bool:
    """Whether Ray Train itself raised the error, rather than the program of a worker."""
    from ray.train.v2._internal.exceptions import RayTrainError

    return isinstance(error, RayTrainError)
