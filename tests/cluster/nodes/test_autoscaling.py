"""A cluster that grows from no worker to its limit and back while a search runs on it.

Ray's own simulated provider starts and ends raylets on this machine as its autoscaler decides;
all else is as on a cloud: the search sees an address, and the autoscaler what the search asks for.
"""

import contextlib
import datetime
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler.v2.sdk import get_cluster_status

from stillhouse.search.artifacts.store import Library
from tests.support.ports import free_port
from tests.support.processes import descendants
from tests.support.waiting import within

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parents[3]
PORT = 6379
"""Ray's provider starts its nodes for a head at this one."""
LIMIT = 3
CONCURRENT = 3
TRIALS = 8
TRAINING = {"epochs": 2, "batch_size": 32, "lr": 0.05}
AS_SIMULATED = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
STARTS = 3
"""Ray gives a head half a minute, which a busy machine may need more of."""
CLUSTER = {
    "cluster_name": "simulated",
    "max_workers": LIMIT,
    "idle_timeout_minutes": 0.15,
    "upscaling_speed": 100,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "auth": {"ssh_user": "ray"},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1},
            "node_config": {},
            "min_workers": 0,
            "max_workers": LIMIT,
        },
    },
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


@pytest.fixture
def address(tmp_path):
    """A head without a processor, and an autoscaler that may bring workers."""
    file, log = tmp_path / "cluster.yaml", tmp_path / "head.log"
    file.write_text(yaml.safe_dump(CLUSTER))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = [f"--port={PORT}", "--num-cpus=0", f"--dashboard-port={free_port()}"]
    head = None
    # A short path: sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary:
        options += [f"--temp-dir={temporary}", f"--autoscaling-config={file}"]
        try:
            for _ in range(STARTS):
                with log.open("w") as output:
                    head = subprocess.Popen(
                        [*command, *options],
                        stdout=output,
                        stderr=output,
                        env={**os.environ, **AS_SIMULATED},
                        start_new_session=True,
                    )
                if _started(head, log):
                    break
            else:
                pytest.fail(log.read_text())
            yield f"{ray.util.get_node_ip_address()}:{PORT}"
        finally:
            for process in descendants(head.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            head.wait()


def _started(head, log):
    while head.poll() is None:
        if "Ray runtime started" in log.read_text():
            return True
        time.sleep(0.1)
    return False


class Watch:
    """A process that looks several times a second at the nodes and at what waits for one.

    A process of its own, as what this one says to Ray was settled by its first words to it.
    """

    def __init__(self, address, file):
        self._file = file
        with file.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, __file__, address],
                stdout=output,
                env={**os.environ, **AS_SIMULATED, "PYTHONPATH": str(ROOT)},
            )

    @property
    def samples(self):
        """(moment, workers alive, trials pending, stages pending), in their order."""
        whole = self._file.read_text().rpartition("\n")[0]
        return [tuple(map(float, line.split())) for line in whole.splitlines()]

    def end(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def watch(address, tmp_path):
    """Looks at the cluster from before the search to after it."""
    watching = Watch(address, tmp_path / "samples")
    yield watching
    watching.end()


def look(address):
    """(moment, workers alive, trials' groups pending, stages pending)"""
    status = get_cluster_status(address)
    nodes = [*status.active_nodes, *status.idle_nodes]
    workers = sum(node.resource_usage is not None and _processors(node) > 0 for node in nodes)
    demands = status.resource_demands
    trials = sum(
        count.count
        for demand in demands.placement_group_demand
        for count in demand.bundles_by_count
    )
    stages = sum(
        count.count
        for demand in demands.ray_task_actor_demand
        for count in demand.bundles_by_count
        if count.bundle.get("CPU")
    )
    return time.time(), workers, trials, stages


def _processors(node):
    return sum(use.total for use in node.resource_usage.usage if use.resource_name == "CPU")


def test_grows_with_the_work_and_shrinks_after_it(address, watch, tracking, tmp_path):
    experiment = {
        "name": "growing",
        "data": {"source": "digits", "limit": 100},
        "stages": {
            "teacher": {
                "network": "cnn8",
                "objective": {"cross_entropy": {}},
                "training": TRAINING,
            },
            "assistants": {
                "do": "chain",
                "teacher": "teacher",
                "networks": ["cnn6"],
                "objective": {"soft_targets": {}},
                "training": TRAINING,
            },
            "student": {
                "network": {"cnn2": {"width": 0.25}},
                "teachers": ["assistants"],
                "objective": {"soft_targets": {}},
                "training": TRAINING,
            },
        },
        "search": {
            "assistants.networks": {"choice": [["cnn6"], ["cnn4"], ["cnn2"], ["cnn6", "cnn4"]]},
            "student.training.lr": {"log_uniform": [0.01, 0.1]},
        },
        "goal": {"maximize": "student.val_accuracy"},
        "run": {
            "trials": TRIALS,
            "sampler": "random",
            "concurrent": CONCURRENT,
            "repeats": {"top": 2, "seeds": 3},
            "baselines": False,
        },
        "library": str(tmp_path / "library"),
        "tracking": tracking,
    }
    (tmp_path / "growing.yaml").write_text(yaml.safe_dump(experiment))
    assert within(300, lambda: len(watch.samples) > 5)
    idle = len(watch.samples)
    command = [sys.executable, "-c", "from stillhouse.search.cli import main; main()"]
    launched = subprocess.run(
        [*command, "launch", "growing.yaml", "--address", address],
        cwd=tmp_path,
        env={
            **os.environ,
            **AS_SIMULATED,
            "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)]),
            "STILLHOUSE_RUNS": str(tmp_path / "runs"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert within(300, lambda: watch.samples[-1][1] == 0)
    for line in changes(watch.samples):
        print(line)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    made = {record.name: record for record in Library(str(tmp_path / "library")).records()}
    assert {"teacher", "student"} <= made.keys()

    _, workers, trials, stages = zip(*watch.samples, strict=True)
    assert set(workers[:idle]) == {0}, "nothing was asked for yet"
    taught = datetime.datetime.fromisoformat(made["teacher"].made_at).timestamp()
    alone = [count for moment, count, *_ in watch.samples if moment < taught]
    assert max(alone) == 1, "a teacher that all else waits for needs no second worker"
    assert max(workers) == LIMIT
    assert workers[-1] == 0
    # What waits is what the search can use: its trials, and as many stages.
    assert 1 <= max(trials) <= CONCURRENT
    assert 1 <= max(stages) <= CONCURRENT


def changes(samples):
    """The samples at which something changed."""
    before = None
    for moment, *seen in samples:
        if seen != before:
            told = "{:.0f} workers, {:.0f} trials and {:.0f} stages pending".format(*seen)
            yield f"{moment - samples[0][0]:7.1f} s  {told}"
        before = seen


if __name__ == "__main__":
    while True:
        with contextlib.suppress(RuntimeError):
            print(*look(sys.argv[1]), flush=True)
        time.sleep(0.2)
