"""A cluster's dashboard: what can be asked of a cluster from a machine that is none of its nodes.

Ray lets only nodes connect to it; its dashboard answers everybody who has the cluster's token. It
takes searches in as jobs, and shows the folder of logs in which a driver leaves how it stands.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import ray

from stillhouse.search.cluster.auth import enable_token_auth, present_token
from stillhouse.search.cluster.connection import (
    WORKER_ENV,
    check_listening,
    cluster_error,
    package_folders,
)
from stillhouse.search.cluster.jobs import RayJob
from stillhouse.search.monitoring.publisher import DASHBOARD_PREFIX, DASHBOARD_SUFFIX
from stillhouse.search.monitoring.statuses import latest_status, matching_run_ids
from stillhouse.spaces.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

HTTP_TIMEOUTS = (10.0, 120.0)
"""Seconds within which a dashboard is reached, and then answers."""
_LOG_TIMEOUT_S = 30
"""Seconds a node has to show its logs."""
_JOB_ENV = {
    # The driver hands the packages on to workers; without this Ray finds them told twice.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    # A driver that is stopped saves what runs, and has MLflow know.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "PYTHONUNBUFFERED": "1",
}
"""What a job finds in its environment."""


class ClusterDashboard:
    """The dashboard of the cluster at ``address``: ``HOST:6379``, ``auto`` or ``http://HOST:8265``.

    Raises:
        ConfigError: it does not answer, wants a token, or Ray's part for it is not installed.
    """

    def __init__(self, address: str) -> None:
        self.url = _dashboard_url(address)
        self.client = _connect(self.url)

    def submit(self, job: RayJob) -> str:
        """Have the head run a job, with the packages as they are here; returns the job's id.

        Raises:
            ConfigError: it is refused, or its files are more than Ray carries.
        """
        runtime_env: dict[str, Any] = {
            "py_modules": package_folders(),
            "env_vars": {**WORKER_ENV, **_JOB_ENV},
        }
        if job.folder is not None:
            runtime_env["working_dir"] = str(job.folder)
        try:
            return self.client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=f"{job.name}-{uuid.uuid4().hex[:6]}",
                runtime_env=runtime_env,
                metadata={"stillhouse": job.name},
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            message = f"{self.url} took no job: {' '.join(str(error).split())[:500]}"
            raise ConfigError([Problem("--submit", message)]) from None

    def wait_for_start(self, job_id: str, timeout: float) -> tuple[str, str]:
        """What a job has come to after ``timeout`` seconds at most, and what it has printed.

        Returns at once when its search has begun, which its lines tell, or when it ended.

        Raises:
            ConfigError: the dashboard does not answer any more.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                state, logs = (
                    str(self.client.get_job_status(job_id)),
                    self.client.get_job_logs(job_id),
                )
            except (OSError, RuntimeError) as error:
                raise cluster_error(self.url, error) from None
            if (
                run_name_in(logs)
                or state not in ("PENDING", "RUNNING")
                or time.monotonic() > deadline
            ):
                return state, logs
            time.sleep(1.0)

    def status(self, name: str) -> dict[str, Any]:
        """What the driver of the run ``name`` (or of that experiment's newest) told last.

        ``name`` may also be the run's id.

        Raises:
            ConfigError: no driver on this cluster told anything of it, or several runs share
                the name.
        """
        files_by_run: dict[str, list[tuple[str, str]]] = {}
        for node in self._alive_node_ids():
            listing = self._get(
                "logs",
                node_id=node,
                glob=f"{DASHBOARD_PREFIX}*{DASHBOARD_SUFFIX}",
                timeout=_LOG_TIMEOUT_S,
            )
            for file in itertools.chain(*json.loads(listing)["data"]["result"].values()):
                files_by_run.setdefault(
                    file.removeprefix(DASHBOARD_PREFIX).removesuffix(DASHBOARD_SUFFIX), []
                ).append((node, file))
        location = f"the cluster at {self.url}"
        runs = matching_run_ids(name, files_by_run, location)
        statuses = {
            run: [self._read_log(*node_and_file) for node_and_file in files_by_run[run]]
            for run in runs
        }
        return dict(latest_status(name, statuses, location))

    def _read_log(self, node: str, file: str) -> str:
        params = {"node_id": node, "filename": file, "lines": -1, "timeout": _LOG_TIMEOUT_S}
        return str(self._get("logs/file", **params))

    def _alive_node_ids(self) -> list[str]:
        """The ids of the nodes that are alive, the head first: drivers sit there."""
        answer = json.loads(self._get("nodes", detail=1, timeout=_LOG_TIMEOUT_S))
        nodes = [n for n in answer["data"]["result"]["result"] if n["state"] == "ALIVE"]
        nodes.sort(key=lambda node: not node.get("is_head_node"))
        return [node["node_id"] for node in nodes]

    def _get(self, resource: str, **params: Any) -> str:
        try:
            reply = self.client._do_request("GET", f"/api/v0/{quote(resource)}?{urlencode(params)}")
        except OSError as error:
            raise cluster_error(self.url, error) from None
        if reply.status_code != 200:
            body = " ".join(reply.text.split())[:200]
            message = f"the dashboard at {self.url} cannot tell {resource}: {body}"
            raise ConfigError([Problem("--address", message)])
        return str(reply.text)


def run_name_in(logs: str) -> str:
    """The run that a driver's lines tell of; empty before it has one."""
    match = re.search(r"^ *[\d.]+ s  (\S+) (?:started|resumed): \d+ trials$", logs, re.MULTILINE)
    return match[1] if match else ""


def _dashboard_url(address: str) -> str:
    """The dashboard's own address.

    Raises:
        ConfigError: no cluster answers there, or one without a dashboard.
    """
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    check_listening(address)
    from ray.dashboard.utils import ray_address_to_api_server_url

    try:
        present_token(address)
        return str(ray_address_to_api_server_url(address))
    except Exception as error:  # Ray's own, of many kinds
        raise cluster_error(address, error) from None


def _connect(url: str) -> JobSubmissionClient:
    try:
        client = _authenticated_client(url)
    except ImportError:
        message = "needs Ray's client for dashboards; install it: pip install 'stillhouse[cluster]'"
        raise ConfigError([Problem("--address", message)]) from None
    except ConnectionError:
        message = (
            f"no dashboard at {url}; is it that address (port 8265), the tunnel open, and "
            "ray[default] installed on the head?"
        )
        raise ConfigError([Problem("--address", message)]) from None
    except Exception as error:  # Ray's own, of many kinds
        raise cluster_error(url, error) from None
    # Ray sets them itself; of the first, its own level counts and not that of ray.dashboard.
    for name in (
        "ray.dashboard.modules.dashboard_sdk",
        "ray.dashboard",
        "ray._private.runtime_env",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    return client


def _authenticated_client(url: str) -> JobSubmissionClient:
    """A client that shows the token, if there is one and the dashboard asks for it."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own waits for ever where nothing comes back."""

        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, **{"timeout": HTTP_TIMEOUTS, **kwargs})

    try:
        return Client(url)
    except ray.exceptions.AuthenticationError:
        if not enable_token_auth():
            raise
        return Client(url)
