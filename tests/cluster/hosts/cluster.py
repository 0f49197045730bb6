"""A cluster of hosts: a head that serves and computes nothing, workers, and a desk that submits."""

import glob
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.hosts.host import Host, Program
from tests.cluster.hosts.network import Network

WORKERS = ("one", "two")
NAMES = ("head", *WORKERS, "desk")
BUCKET = "stillhouse"
STORE = "endpoint_override=http://head:9000"
STUDY = "postgresql+psycopg://postgres@head:5432/studies"
TRACKING = "http://head:5000"
DASHBOARD = "http://head:8265"
RAY = "head:6379"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
STILLHOUSE = ("python", "-m", "stillhouse.search.cli")
RAYS = ("gcs_server", "raylet", "ray start", "ray::", "ray-dashboard", "python -u")
_PAGES_ALONE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
_MLFLOW = (
    *("python", "-m", "mlflow", "server", "--host=0.0.0.0", "--port=5000", "--workers=1"),
    *("--allowed-hosts=head:5000", "--artifacts-destination=/tmp/home/mlflow"),
    "--backend-store-uri=postgresql+psycopg://postgres@head:5432/mlflow",
)
_RAY = (
    *("ray", "start", "--block", "--disable-usage-stats"),
    "--object-store-memory=100000000",
    # Ports of its choice Ray waits for, for 15 s: not long enough on a busy machine.
    *("--dashboard-agent-listen-port=52365", "--dashboard-agent-grpc-port=52366"),
    *("--runtime-env-agent-port=52367", "--metrics-export-port=52368"),
)
_PATIENT = {"RAY_AUTH_MODE": "token", "RAY_raylet_start_wait_time_s": "300"}
_STARTED = "Ray runtime started"
_DATA = "/tmp/postgres"
_LISTENS = "-c listen_addresses=* -c fsync=off -c max_connections=100"


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs; none if it is not installed."""
    found = [shutil.which("pg_ctl"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"))]
    there = [Path(path).parent for path in found if path]
    return there[-1] if there else None


class Cluster:
    """The hosts, with PostgreSQL, MLflow, an S3 server and Ray's head on ``head``."""

    def __init__(self, folder: Path) -> None:
        self.network = Network(folder, NAMES)
        self.shared = folder / "shared"
        self.shared.mkdir()
        self._token = secrets.token_hex(32)
        self._workers: dict[str, Program] = {}

    def begin(self) -> None:
        """Switch everything on; what is slow begins side by side."""
        self.head, self.desk = self._add("head"), self._add("desk")
        self._start_postgres()
        self.head.start("store", "python", "-m", "moto.server", "--host=0.0.0.0", "-p9000")
        mlflow = self.head.start("mlflow", *_MLFLOW, **_PAGES_ALONE)
        self.start_head()
        self.mend()
        self.head.call("python", "-c", _MAKE_BUCKET)
        mlflow.printed(300, "Application startup complete")

    def start_head(self) -> None:
        """Ray's head, its database and dashboard; no work is done there."""
        here = (f"--node-ip-address={self.head.address}", f"--dashboard-host={self.head.address}")
        self._gcs = self._ray(self.head, "--head", "--port=6379", *here, "--num-cpus=0")
        self._gcs.printed(300, _STARTED)

    def mend(self) -> None:
        """Start anew what is no longer there, or not as it was."""
        if not self.head.processes("gcs_server"):
            self.stop_ray()
            self.start_head()
        for name in WORKERS:
            if not self._sound(name):
                self.work(name)
        self.wait_for_workers()

    def wait_for_workers(self) -> None:
        """Until all of them have joined."""
        for program in self._workers.values():
            program.printed(300, _STARTED)

    def work(self, name: str, disk: str = "") -> Host:
        """Have a worker join; one of that name is taken away before. See :meth:`Network.host`."""
        if name in self._workers:
            self.network.hosts[name].power_off()
        host = self._add(name, disk)
        here = f"--node-ip-address={host.address}"
        self._workers[name] = self._ray(host, f"--address={RAY}", here, "--num-cpus=1")
        return host

    def stop_ray(self) -> None:
        """Ray is gone from all hosts; what else the head serves stays."""
        for host in self.workers:
            host.power_off()
        for title in RAYS:
            for pid in self.head.processes(title):
                os.kill(pid, signal.SIGKILL)
        self._gcs.ends(60)

    @property
    def workers(self) -> list[Host]:
        """Those that are on."""
        found = [self.network.hosts[name] for name in self._workers]
        return [host for host in found if host.on_device]

    def _sound(self, name: str) -> bool:
        """Whether a worker is there, and as it was when it joined."""
        if name not in self._workers:
            return False
        host = self.network.hosts[name]
        joined = self._workers[name].process.poll() is None
        return host.on_device and joined and not (host.link.touched or host.altered)

    def _add(self, name: str, disk: str = "") -> Host:
        """A host that has the cluster's token."""
        host = self.network.host(name, disk, self.shared)
        host.call("sh", "-c", f"umask 077; echo {self._token} > .ray/auth_token")
        return host

    def _ray(self, host: Host, *words: str) -> Program:
        return host.start("ray", *_RAY, *words, **KEYS, **_PATIENT)

    def _start_postgres(self) -> None:
        control = f"{postgres_programs()}/pg_ctl"
        script = (
            f"cd /tmp && {control} initdb -D {_DATA} -o '--no-sync -E UTF8 --auth=trust' && "
            f"echo 'host all all 10.83.0.0/24 trust' >> {_DATA}/pg_hba.conf && "
            f"{control} start -w -D {_DATA} -l {_DATA}.log -o '-k /tmp {_LISTENS}' && "
            "createdb -h /tmp studies && createdb -h /tmp mlflow"
        )
        self.head.call("runuser", "-u", "postgres", "--", "sh", "-c", script)

    def close(self) -> None:
        self.network.close()


_MAKE_BUCKET = f"""
import time, urllib.request
for _ in range(200):
    try:
        asked = urllib.request.Request("http://head:9000/{BUCKET}", method="PUT")
        urllib.request.urlopen(asked).close()
        break
    except OSError:
        time.sleep(0.5)
else:
    raise SystemExit("the store does not answer")
"""


def wait_for(seconds: float, holds: Callable[[], object]) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: it does not in that time.
    """
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "never came true"
        time.sleep(0.1)
