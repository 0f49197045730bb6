"""Clusters of several nodes on this machine, and searches on them with faults."""

import collections
import contextlib
import copy
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
from ray._private import ray_constants
from ray.cluster_utils import Cluster

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster import connection
from stillhouse.search.cluster.connection import NAMESPACE
from stillhouse.search.execution import builder as making
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning import ray_backend
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.search.tuning.ray_backend import RayBackend
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Study
from tests.support.processes import children, parents, titled

FAST = {"epochs": 2, "batch_size": 32, "lr": 0.05}
TAUGHT = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5, "temperature": 2.0}}
SEARCH = {
    "name": "faults",
    "data": {"source": "digits", "limit": 100},
    "stages": {
        "teacher": {"network": "cnn8", "objective": {"cross_entropy": {}}, "training": FAST},
        "student": {
            "network": {"cnn2": {"width": 0.25}},
            "teachers": ["teacher"],
            "objective": TAUGHT,
            "training": {**FAST, "epochs": 40},
        },
    },
    # A grid: what is tried does not hang on how often a search was stopped.
    "search": {
        "student.objective.soft_targets.weight": {"choice": [0.3, 0.9]},
        "student.training.lr": {"choice": [0.02, 0.05]},
    },
    "goal": {"maximize": "student.val_accuracy"},
    "run": {"trials": 4, "sampler": "grid", "repeats": {"top": 0}, "baselines": False},
}
NOTICED_SOON = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}
"""A lost node is noticed in ten seconds instead of half a minute."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def works():
    """Operations that the workers can import too."""
    folder = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
        import works_for_faults

        yield works_for_faults
        del sys.modules["works_for_faults"]


class Machines:
    """A cluster: a head without slots, and machines with slots."""

    def __init__(self, *cpus, head_cpus=0, gpus=0, **config):
        self.gpus = gpus
        self.cluster = Cluster(
            shutdown_at_exit=False,  # its hooks are signal handlers, for the main thread alone
            initialize_head=True,
            head_node_args={
                "num_cpus": head_cpus,
                "include_dashboard": False,
                "_system_config": {**NOTICED_SOON, **config},
            },
        )
        self.nodes = []
        for count in cpus:
            self.gain(count)

    def connect(self):
        ray.init(address=self.cluster.address, namespace=NAMESPACE, log_to_driver=False)

    def gain(self, cpus):
        """Add a machine. Ray only counts its GPUs: no device is needed."""
        self.nodes.append(self.cluster.add_node(num_cpus=cpus, num_gpus=self.gpus))
        return self.nodes[-1]

    def lose(self, node):
        """Kill all processes of a machine at once, workers too, without notice."""
        raylet = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid
        working = children(raylet)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for pid in working:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def warn(self, node, seconds):
        """Announce, as a cloud does, that the machine will be taken away."""
        from ray.core.generated import autoscaler_pb2

        accepted, why = ray._private.worker.global_worker.gcs_client.drain_node(
            node.node_id,
            autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
            "taken away",
            int((time.time() + seconds) * 1000),
        )
        assert accepted, why

    def called(self, node_id):
        return next(node for node in self.nodes if node.node_id == node_id)

    def workers(self, title):
        """The worker processes with that title, as (node, pid)."""
        raylets = {
            node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid: node
            for node in self.cluster.list_all_nodes()
        }
        for pid, parent in parents().items():
            if parent in raylets and titled(pid, title):
                yield raylets[parent], pid

    def close(self):
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture
def machines(works, monkeypatch):
    """Starts a cluster of machines with the given CPUs, and connects to it."""
    assert works.Steady  # the nodes find it as their environment is set before they start
    started = []

    def start(*cpus, **config):
        started.append(Machines(*cpus, **config))
        started[-1].connect()
        monkeypatch.setattr(ray_backend, "connect", lambda _: None)
        return started[-1]

    yield start
    monkeypatch.undo()
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def machine(works):
    """One machine with one slot, for all tests of a module; it keeps its workers."""
    assert works.Steady
    alone = Machines(head_cpus=1, **connection._LOCAL_RAY_CONFIG)
    alone.connect()
    yield alone
    alone.close()


@pytest.fixture
def library(tmp_path):
    return Library(str(tmp_path / "library"))


@pytest.fixture
def new_client(library):
    """Clients of one driver for the same library."""
    client = []

    def connect(listen=lambda _: None, hang_after=None):
        client.append(
            SchedulerClient(library, ResourceSettings(), EventDispatcher([listen]), hang_after)
        )
        return client[-1]

    yield connect
    for each in client:
        each.close()


@pytest.fixture
def stage(works, tmp_path):
    """A stage of an operation in ``works``; all log their starts in the same file."""

    def made(kind, name, *parents, **settings):
        work = getattr(works, kind)(log=str(tmp_path / "log"), name=name, **settings)
        return Stage(name, work, DataConfig.parse({"source": "digits"}), parents)

    return made


@pytest.fixture
def go(tmp_path):
    """Opens the gate of all stages that have one."""
    return (tmp_path / "go").touch


@pytest.fixture
def starts(tmp_path):
    """The starts of a stage so far: the epoch before the start, and the node."""

    def read(name):
        log = tmp_path / "log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        told = [line.split() for line in lines]
        return [(int(done), node) for whose, done, node in told if whose == name]

    return read


@pytest.fixture
def plain(tmp_path):
    """The experiment's file as plain data, its library in the test's own folder."""
    told = copy.deepcopy(SEARCH)
    told["library"] = str(tmp_path / "library")
    told["tracking"] = f"sqlite:///{tmp_path}/mlflow.db"
    return told


class Searched:
    """One search on the connected cluster, and its events."""

    def __init__(self, experiment, folder, listen=None):
        self.events = []
        self.dispatch = EventDispatcher([self.events.append, *([listen] if listen else [])])
        self.library = Library(experiment.library)
        self.study = Study(experiment, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray, "shutdown", lambda: None)
            backend = RayBackend(experiment, self.library, self.dispatch, folder, None)
            try:
                recorder = TrialRecorder(self.study, self.library, self.dispatch)
                self.ended = backend.run_trials(recorder, experiment.run.trials)
            finally:
                backend.close()

    def of(self, kind, **fields):
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def states(self):
        return collections.Counter(trial.state for trial in self.study.trials())


@pytest.fixture
def search(plain, tmp_path):
    """Runs the experiment, with dotted path -> value laid over it first."""

    def searched(changes=None, listen=None):
        return Searched(load_experiment(plain, changes), tmp_path / "run", listen)

    return searched


@pytest.fixture
def undisturbed(plain, tmp_path):
    """The same trials in this process, without faults."""

    def searched(changes=None):
        making._OPEN_ARTIFACTS.clear()
        apart = {**(changes or {}), "library": str(tmp_path / "undisturbed")}
        experiment = load_experiment(plain, apart)
        library, dispatch = Library(experiment.library), EventDispatcher([])
        study = Study(experiment, tmp_path / "undisturbed-run")
        LocalBackend(experiment, library, dispatch).run_trials(
            TrialRecorder(study, library, dispatch), experiment.run.trials
        )
        return study.trials()

    return searched
