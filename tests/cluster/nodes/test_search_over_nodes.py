"""A search over four nodes finds what one process finds, and keeps their slots busy."""

import itertools

import pytest
import ray
import torch
import yaml
from ray.cluster_utils import Cluster

from stillhouse import launch, load_experiment
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import connect
from stillhouse.search.execution import builder as making
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.results.outcome import winner
from stillhouse.search.stages.core.stage import Stage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    # Ray does not wait for all processes of a node that it kills.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
]

NODES, SLOTS = 4, 2
HEAD = {"num_cpus": SLOTS, "include_dashboard": False}
SLEEP = 5.0
"""Seconds of a stage; what the scheduler and Ray need between two is small beside it."""
ROUNDS = 4
SAYS_WHERE = {"name", "library", "tracking"}
"""Parts of a recipe that say where it was found."""
CLOCK = {"seconds", "images_per_second"}
"""Figures of the time a stage took, alike on no two runs."""
TRAINING = {"epochs": 2, "batch_size": 32, "lr": 0.05}
WORKS = '''
"""Work that takes a known time and says when."""

import time
from typing import ClassVar

import ray
import torch

from stillhouse.search.stages.core.stage import Operation, StageResult


class Sleeping(Operation):
    kind: ClassVar[str] = "sleeping"
    log: str
    number: int
    seconds: float

    def run(self, data, parents, context):
        started = time.time()
        time.sleep(self.seconds)
        yield {"epoch": 1.0}
        node = ray.get_runtime_context().get_node_id()
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{node} {started} {time.time()}\\n")
        return StageResult({"nothing": torch.zeros(1)}, {})
'''


@pytest.fixture(scope="module")
def works(importable):
    """Kinds of work that the workers can import too."""
    return importable("works_for_nodes", WORKS)


@pytest.fixture(scope="module")
def address(works):
    """Of a cluster of four nodes on this machine."""
    assert works.Sleeping  # its place is in the environment before the nodes start
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=SLOTS)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def test_finds_what_one_process_finds(address, tracking, tmp_path, monkeypatch):
    """The same values, the same keys, the same tensors bit for bit, the same best recipe."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    spread = launch(load_experiment(experiment(tmp_path / "spread", tracking)), address=address)
    making._OPEN_ARTIFACTS.clear()
    alone = launch(load_experiment(experiment(tmp_path / "alone", tracking)), inline=True)
    assert spread.state == alone.state == "finished"
    assert spread.unsent == alone.unsent == 0

    ours, theirs = spread.outcome.trials, alone.outcome.trials
    assert [t.values for t in ours] == [t.values for t in theirs]
    assert [t.state for t in ours] == [t.state for t in theirs] == ["finished"] * len(theirs)
    one, other = Library(str(tmp_path / "spread")), Library(str(tmp_path / "alone"))
    keys = set(one.keys())
    assert keys == set(other.keys())
    assert len(keys) > len(ours)
    for key in keys:
        tensors, same = one.open_artifact(key).tensors, other.open_artifact(key).tensors
        assert tensors.keys() == same.keys()
        assert all(torch.equal(tensors[name], same[name]) for name in same)
        assert measured(one.record(key).figures) == measured(other.record(key).figures)
    best = winner(spread.outcome)
    assert best.role == winner(alone.outcome).role
    assert recipe_of(spread) == recipe_of(alone)


def measured(figures):
    return {name: figure for name, figure in figures.items() if name not in CLOCK}


def recipe_of(launched):
    told = yaml.safe_load((launched.folder.path / "best.yaml").read_text())
    return {name: part for name, part in told.items() if name not in SAYS_WHERE}


def experiment(library, tracking):
    taught = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}}
    return {
        "name": library.name,
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
                "objective": taught,
                "training": TRAINING,
            },
            "student": {
                "network": {"cnn2": {"width": 0.25}},
                "teachers": ["assistants"],
                "objective": taught,
                "training": TRAINING,
            },
        },
        "search": {
            "assistants.networks": {"chain": {"of": ["cnn6", "cnn4"], "at_most": 2}},
            "student.objective.soft_targets.weight": {"choice": [0.3, 0.9]},
            "student.training.lr": {"log_uniform": [0.01, 0.1]},
        },
        "goal": {"maximize": "student.val_accuracy"},
        "run": {"trials": 8, "sampler": "random", "repeats": {"top": 2, "seeds": 2}},
        "library": str(library),
        "tracking": tracking,
    }


def test_slots_of_all_nodes_are_busy(address, works, tmp_path):
    """Between the first stage's start and the last one's end nine tenths of all slots' time."""
    connect(address)
    try:
        library = Library(str(tmp_path / "library"))
        orders = SchedulerClient(
            library, ResourceSettings(), EventDispatcher([]), max_in_flight=NODES * SLOTS
        )
        numbers = itertools.count()

        def stages(log, count, seconds):
            made = [
                works.Sleeping(log=str(tmp_path / log), number=next(numbers), seconds=seconds)
                for _ in range(count)
            ]
            data = DataConfig.parse({"source": "digits"})
            return [Stage(f"sleeping {work.number}", work, data) for work in made]

        # Every slot's worker loads torch first, which is no part of any stage.
        assert orders.build(stages("warm", NODES * SLOTS, 3 * SLEEP)) == {}
        wanted = stages("log", ROUNDS * NODES * SLOTS, SLEEP)
        assert orders.build(wanted) == {}
        orders.close()
    finally:
        ray.shutdown()
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    spans = [(float(started), float(ended)) for _, started, ended in lines]
    assert len(spans) == len(wanted)
    assert len({node for node, _, _ in lines}) == NODES
    whole = max(ended for _, ended in spans) - min(started for started, _ in spans)
    busy = sum(ended - started for started, ended in spans) / (NODES * SLOTS * whole)
    print(f"busy {busy:.3f} of {NODES * SLOTS} slots for {whole:.1f} s")
    assert 0.9 <= busy <= 1.0
