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

from stillhouse.search.cluster.auth import show_token, show_token_from_now_on
from stillhouse.search.cluster.connection import (
    WORKERS_READ,
    check_listening,
    no_cluster,
    package_folders,
)
from stillhouse.search.cluster.jobs import Job
from stillhouse.search.monitoring.publisher import BEFORE, BEHIND
from stillhouse.search.monitoring.statuses import asked_for, status_of
from stillhouse.spaces.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ANSWER = (10.0, 120.0)
"""Seconds within which a dashboard is reached, and then answers."""
_WAIT = 30
"""Seconds a node has to show its logs."""
_JOBS = {
    # The driver hands the packages on to workers; without this Ray finds them told twice.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    # A driver that is stopped saves what runs, and has MLflow know.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "PYTHONUNBUFFERED": "1",
}
"""What a job finds in its environment."""


class Dashboard:
    """The dashboard of the cluster at ``address``: ``HOST:6379``, ``auto`` or ``http://HOST:8265``.

    Raises:
        ConfigError: it does not answer, wants a token, or Ray's part for it is not installed.
    """

    def __init__(self, address: str) -> None:
        self.url = _url_of(address)
        self.jobs = _client(self.url)

    def submit(self, job: Job) -> str:
        """Have the head run a job, with the packages as they are here; returns the job's id.

        Raises:
            ConfigError: it is refused, or its files are more than Ray carries.
        """
        carried: dict[str, Any] = {
            "py_modules": package_folders(),
            "env_vars": {**WORKERS_READ, **_JOBS},
        }
        if job.folder is not None:
            carried["working_dir"] = str(job.folder)
        try:
            return self.jobs.submit_job(
                entrypoint=job.entrypoint,
                submission_id=f"{job.name}-{uuid.uuid4().hex[:6]}",
                runtime_env=carried,
                metadata={"stillhouse": job.name},
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            message = f"{self.url} took no job: {' '.join(str(error).split())[:500]}"
            raise ConfigError([Problem("--submit", message)]) from None

    def begun(self, job: str, patience: float) -> tuple[str, str]:
        """What a job has come to after ``patience`` seconds at most, and what it has printed.

        Returns at once when its search has begun, which its lines tell, or when it ended.

        Raises:
            ConfigError: the dashboard does not answer any more.
        """
        until = time.monotonic() + patience
        while True:
            try:
                state, said = str(self.jobs.get_job_status(job)), self.jobs.get_job_logs(job)
            except (OSError, RuntimeError) as error:
                raise no_cluster(self.url, error) from None
            if run_of(said) or state not in ("PENDING", "RUNNING") or time.monotonic() > until:
                return state, said
            time.sleep(1.0)

    def status(self, name: str) -> dict[str, Any]:
        """What the driver of the run ``name`` (or of that experiment's newest) told last.

        ``name`` may also be the run's id.

        Raises:
            ConfigError: no driver on this cluster told anything of it, or several runs share
                the name.
        """
        found: dict[str, list[tuple[str, str]]] = {}
        for node in self._nodes():
            listed = self._get("logs", node_id=node, glob=f"{BEFORE}*{BEHIND}", timeout=_WAIT)
            for file in itertools.chain(*json.loads(listed)["data"]["result"].values()):
                found.setdefault(file.removeprefix(BEFORE).removesuffix(BEHIND), []).append(
                    (node, file)
                )
        where = f"the cluster at {self.url}"
        runs = asked_for(name, found, where)
        told = {run: [self._read(*place) for place in found[run]] for run in runs}
        return dict(status_of(name, told, where))

    def _read(self, node: str, file: str) -> str:
        asked = {"node_id": node, "filename": file, "lines": -1, "timeout": _WAIT}
        return str(self._get("logs/file", **asked))

    def _nodes(self) -> list[str]:
        """The ids of the nodes that are alive, the head first: drivers sit there."""
        answer = json.loads(self._get("nodes", detail=1, timeout=_WAIT))
        nodes = [n for n in answer["data"]["result"]["result"] if n["state"] == "ALIVE"]
        nodes.sort(key=lambda node: not node.get("is_head_node"))
        return [node["node_id"] for node in nodes]

    def _get(self, what: str, **asked: Any) -> str:
        try:
            reply = self.jobs._do_request("GET", f"/api/v0/{quote(what)}?{urlencode(asked)}")
        except OSError as error:
            raise no_cluster(self.url, error) from None
        if reply.status_code != 200:
            said = " ".join(reply.text.split())[:200]
            message = f"the dashboard at {self.url} cannot tell {what}: {said}"
            raise ConfigError([Problem("--address", message)])
        return str(reply.text)


def run_of(said: str) -> str:
    """The run that a driver's lines tell of; empty before it has one."""
    found = re.search(r"^ *[\d.]+ s  (\S+) (?:started|resumed): \d+ trials$", said, re.MULTILINE)
    return found[1] if found else ""


def _url_of(address: str) -> str:
    """The dashboard's own address.

    Raises:
        ConfigError: no cluster answers there, or one without a dashboard.
    """
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    check_listening(address)
    from ray.dashboard.utils import ray_address_to_api_server_url

    try:
        show_token(address)
        return str(ray_address_to_api_server_url(address))
    except Exception as error:  # Ray's own, of many kinds
        raise no_cluster(address, error) from None


def _client(url: str) -> JobSubmissionClient:
    try:
        client = _admitted(url)
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
        raise no_cluster(url, error) from None
    # Ray sets them itself; of the first, its own level counts and not that of ray.dashboard.
    for name in (
        "ray.dashboard.modules.dashboard_sdk",
        "ray.dashboard",
        "ray._private.runtime_env",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    return client


def _admitted(url: str) -> JobSubmissionClient:
    """A client that shows the token, if there is one and the dashboard asks for it."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own waits for ever where nothing comes back."""

        def _do_request(self, *asked: Any, **how: Any) -> Any:
            return super()._do_request(*asked, **{"timeout": ANSWER, **how})

    try:
        return Client(url)
    except ray.exceptions.AuthenticationError:
        if not show_token_from_now_on():
            raise
        return Client(url)
