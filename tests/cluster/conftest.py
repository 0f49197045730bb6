"""Clusters of several nodes on this machine, and searches on them that something befalls."""

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


@pytest.fixture
def within():
    """Whether something comes to hold in time."""

    def waited(seconds, holds):
        until = time.monotonic() + seconds
        while not holds() and time.monotonic() < until:
            time.sleep(0.05)
        return holds()

    return waited


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def works():
    """Kinds of work that the workers can import too."""
    folder = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
        import works_for_faults

        yield works_for_faults
        del sys.modules["works_for_faults"]


def children(pid):
    """The processes that a process has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(folder.name)


class Machines:
    """A cluster: a head that only holds it together, and machines that work."""

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
        """A machine joins. Its GPUs are only counted: no device is needed."""
        self.nodes.append(self.cluster.add_node(num_cpus=cpus, num_gpus=self.gpus))
        return self.nodes[-1]

    def lose(self, node):
        """All its processes are killed at once, those that work too; nobody is told."""
        raylet = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid
        working = list(children(raylet))
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for pid in working:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def warn(self, node, seconds):
        """The cloud will take the machine away so soon."""
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
        """The processes of that title, as (node, pid)."""
        raylets = {
            node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid: node
            for node in self.cluster.list_all_nodes()
        }
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                named = (folder / "cmdline").read_bytes().startswith(title.encode())
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if named and parent in raylets:
                yield raylets[parent], int(folder.name)

    def close(self):
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture
def machines(works, monkeypatch):
    """Starts a cluster of so many machines with so many CPUs, and connects to it."""
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
    """One machine with one slot, for all tests of a module; its workers are kept."""
    assert works.Steady
    alone = Machines(head_cpus=1, **connection._LOCAL_RAY_CONFIG)
    alone.connect()
    yield alone
    alone.close()


@pytest.fixture
def library(tmp_path):
    return Library(str(tmp_path / "library"))


@pytest.fixture
def orders(library):
    """Orders of a driver; each placed on the same library."""
    placed = []

    def open_orders(listen=lambda _: None, hang_after=None):
        placed.append(
            SchedulerClient(library, ResourceSettings(), EventDispatcher([listen]), hang_after)
        )
        return placed[-1]

    yield open_orders
    for each in placed:
        each.close()


@pytest.fixture
def stage(works, tmp_path):
    """A stage of a kind in ``works``; all note their starts in the same file."""

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
    """The starts of a stage so far: the epoch it began after, and the node."""

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
    """One search on the cluster that this process is connected to, and all that was heard."""

    def __init__(self, experiment, folder, listen=None):
        self.events = []
        self.dispatch = EventDispatcher([self.events.append, *([listen] if listen else [])])
        self.library = Library(experiment.library)
        self.study = Study(experiment, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray, "shutdown", lambda: None)
            workshop = RayBackend(experiment, self.library, self.dispatch, folder, None)
            try:
                ledger = TrialRecorder(self.study, self.library, self.dispatch)
                self.ended = workshop.run_trials(ledger, experiment.run.trials)
            finally:
                workshop.close()

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
    """The same trials in this process, where nothing happens to them."""

    def searched(changes=None):
        making._OPEN_ARTIFACTS.clear()
        apart = {**(changes or {}), "library": str(tmp_path / "undisturbed")}
        experiment = load_experiment(plain, apart)
        library, announce = Library(experiment.library), EventDispatcher([])
        study = Study(experiment, tmp_path / "undisturbed-run")
        LocalBackend(experiment, library, announce).run_trials(
            TrialRecorder(study, library, announce), experiment.run.trials
        )
        return study.trials()

    return searched
