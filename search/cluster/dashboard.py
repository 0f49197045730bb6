"""The client of a cluster's dashboard, for machines that are no nodes of the cluster.

Only nodes can connect to Ray itself, but its dashboard answers everyone with the cluster's token.
The dashboard accepts searches as jobs, and serves the logs folder, where drivers put their status.
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
from stillhouse.search.cluster.private_api import dashboard_client, dashboard_get, dashboard_url
from stillhouse.search.monitoring.publisher import DASHBOARD_PREFIX, DASHBOARD_SUFFIX
from stillhouse.search.monitoring.statuses import latest_status, matching_run_ids
from stillhouse.spaces.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

HTTP_TIMEOUTS = (10.0, 120.0)
"""Seconds to connect to a dashboard, and to wait for its answer."""
_LOG_TIMEOUT_S = 30
"""Seconds that the dashboard waits for a node's logs."""
_JOB_ENV = {
    # The driver passes the packages on to workers; Ray would otherwise reject the second setting.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    # A stopped driver needs time to save running stages and to update MLflow.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "PYTHONUNBUFFERED": "1",
}
"""Environment variables of a job."""


class ClusterDashboard:
    """The dashboard of the cluster at ``address``: ``HOST:6379``, ``auto`` or ``http://HOST:8265``.

    Raises:
        ConfigError: the dashboard does not answer or requires a token, or Ray's dashboard client
            is not installed.
    """

    def __init__(self, address: str) -> None:
        self.url = _dashboard_url(address)
        self.client = _connect(self.url)

    def submit(self, job: RayJob) -> str:
        """Submit a job together with the local packages; returns the job's id.

        Raises:
            ConfigError: the dashboard rejects the job, or its files are too large for Ray.
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
        """Wait until a job's search has started, or the job has ended.

        Returns the job's state and its output, after ``timeout`` seconds at the latest.

        Raises:
            ConfigError: the dashboard does not answer any more.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                state = str(self.client.get_job_status(job_id))
                logs = self.client.get_job_logs(job_id)
            except (OSError, RuntimeError) as error:
                raise cluster_error(self.url, error) from None
            is_active = state in ("PENDING", "RUNNING") and time.monotonic() <= deadline
            if run_name_in(logs) or not is_active:
                return state, logs
            time.sleep(1.0)

    def status(self, name: str) -> dict[str, Any]:
        """The newest status of a run, written by its driver.

        Args:
            name: a run's name or id, or the name of an experiment for its newest run.

        Raises:
            ConfigError: the cluster has no status of such a run, or several runs share the name.
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
                run = file.removeprefix(DASHBOARD_PREFIX).removesuffix(DASHBOARD_SUFFIX)
                files_by_run.setdefault(run, []).append((node, file))
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
        """The ids of the nodes that are alive; the head comes first, since drivers run there."""
        answer = json.loads(self._get("nodes", detail=1, timeout=_LOG_TIMEOUT_S))
        nodes = [n for n in answer["data"]["result"]["result"] if n["state"] == "ALIVE"]
        nodes.sort(key=lambda node: not node.get("is_head_node"))
        return [node["node_id"] for node in nodes]

    def _get(self, resource: str, **params: Any) -> str:
        try:
            path = f"/api/v0/{quote(resource)}?{urlencode(params)}"
            status_code, text = dashboard_get(self.client, path)
        except OSError as error:
            raise cluster_error(self.url, error) from None
        if status_code != 200:
            body = " ".join(text.split())[:200]
            message = f"the dashboard at {self.url} cannot read {resource}: {body}"
            raise ConfigError([Problem("--address", message)])
        return text


def run_name_in(logs: str) -> str:
    """The name of the run in a driver's output; empty before the search has started."""
    match = re.search(r"^ *[\d.]+ s  (\S+) (?:started|resumed): \d+ trials$", logs, re.MULTILINE)
    return match[1] if match else ""


def _dashboard_url(address: str) -> str:
    """The URL of the dashboard of the cluster at ``address``.

    Raises:
        ConfigError: no cluster answers, or the cluster has no dashboard.
    """
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    check_listening(address)
    try:
        present_token(address)
        return dashboard_url(address)
    except Exception as error:  # Ray raises errors of many types
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
    except Exception as error:  # Ray raises errors of many types
        raise cluster_error(url, error) from None
    # Ray sets these levels itself, and gives the first logger a level of its own.
    for name in (
        "ray.dashboard.modules.dashboard_sdk",
        "ray.dashboard",
        "ray._private.runtime_env",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    return client


def _authenticated_client(url: str) -> JobSubmissionClient:
    """A client that presents the token if the dashboard requires it."""
    try:
        return dashboard_client(url, HTTP_TIMEOUTS)
    except ray.exceptions.AuthenticationError:
        if not enable_token_auth():
            raise
        return dashboard_client(url, HTTP_TIMEOUTS)
