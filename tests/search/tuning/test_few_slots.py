"""A search goes on however few slots are left: a trial that waits makes its stage itself."""

import asyncio
import collections
import functools
import os
import signal
import time

import pytest
import ray

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import NAMESPACE
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.execution.job import StageJob
from stillhouse.search.execution.placement import StagePlacement
from stillhouse.search.execution.scheduler import scheduler_actor_name
from stillhouse.search.execution.tasks import stream_reports
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import StageChanged
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning import ray_backend
from stillhouse.search.tuning.ray_backend import RayBackend
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Study

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SLOTS = 2
STUDENTS = 4
PLUGINS = '''
"""Kinds of work that note their starts, and a trial that waits for them."""

import os
import time
from pathlib import Path
from typing import ClassVar

import ray
import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.stages.core.stage import Operation, StageResult
from stillhouse.search.execution.waiting import StageFailed, await_stages
from stillhouse.search.execution.watchdog import stage_watchdog


class Noted(Operation):
    """Writes every start of its work, and its process, into a file."""

    kind: ClassVar[str] = "noted"
    log: str
    name: str
    gate: int | None = None
    """After so many epochs it waits until there is a file ``go`` beside the log."""
    spread: int = 1

    @property
    def epochs(self):
        return 4

    @property
    def workers(self):
        return self.spread

    def note(self, done):
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{self.name} {done} {os.getpid()}\\n")

    def run(self, data, parents, context):
        saved = context.checkpointer.load()
        done = int(saved["epoch"]) if saved else 0
        self.note(done)
        for epoch in range(done, 4):
            while epoch == self.gate and not Path(self.log).with_name("go").exists():
                time.sleep(0.05)
            context.checkpointer.save({"epoch": torch.tensor(epoch + 1)})
            yield {"epoch": epoch + 1.0}
        return StageResult({"sum": torch.ones(1)}, {"sum": 1.0})


@ray.remote(max_concurrency=1)
class Waiting:
    """A trial in its slot."""

    def process(self):
        return os.getpid()

    def wait_for_stages(self, library, stages):
        library = Library(library, must_exist=True)
        try:
            await_stages(library, stages, stage_watchdog(library, "0" * 64, None))
        except StageFailed as failed:
            return str(failed)
        return ""
'''


@pytest.fixture(scope="module")
def works(importable):
    """Kinds of work that the workers can import too."""
    return importable("works_for_takeover", PLUGINS)


@pytest.fixture(scope="module")
def cluster(works):
    """One Ray of two processors and two GPUs for all tests here. No device is needed: Ray only
    counts them."""
    assert works.Noted  # the workers find it as their environment is set before they start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", functools.partial(ray.init, num_cpus=SLOTS, num_gpus=SLOTS))
        ray_backend.connect(None)
        patch.setattr(ray_backend, "connect", lambda _: None)
        shutdown = ray.shutdown
        patch.setattr(ray, "shutdown", lambda: None)
        yield
        shutdown()


@ray.remote
class _Other:
    """Somebody else's work on the same cluster."""

    def there(self):
        return True


class Taken:
    """Slots that are as good as gone."""

    def __init__(self, **wish):
        self._actor = _Other.options(**wish).remote()
        assert ray.get(self._actor.there.remote())

    def free(self):
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = None


@pytest.fixture
def taken():
    """Takes slots of the cluster away until the test ends, or until they are freed."""
    all_taken = []

    def take(**wish):
        all_taken.append(Taken(**wish))
        return all_taken[-1]

    yield take
    for each in all_taken:
        each.free()


@pytest.fixture
def trial(works):
    """A trial that holds a slot from now on, and its process."""
    started = []

    def start(**wish):
        actor = works.Waiting.options(**{"num_cpus": 1, **wish}).remote()
        started.append(actor)
        return actor, ray.get(actor.process.remote())

    yield start
    for actor in started:
        ray.kill(actor)


@pytest.fixture
def orders(library):
    """Orders of this driver, and all that it heard."""
    heard = []
    placed = SchedulerClient(library, ResourceSettings(), EventDispatcher([heard.append]))
    placed.heard = heard
    yield placed
    placed.close()


@pytest.fixture
def stage(works, tmp_path):
    """A stage of a kind; all note their starts in the same file."""

    def made(name, parents=(), **settings):
        work = works.Noted(log=str(tmp_path / "log"), name=name, **settings)
        return Stage(name, work, DataConfig.parse({"source": "digits"}), tuple(parents))

    return made


@pytest.fixture
def starts(tmp_path):
    """The starts so far: name, epoch it began after, process."""

    def read():
        log = tmp_path / "log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [(n, int(done), int(pid)) for n, done, pid in map(str.split, lines)]

    return read


def within(seconds, holds):
    """Whether something comes to hold in time."""
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


# A search


@pytest.fixture
def search(load, tmp_path):
    """Students without an assistant come first; those that follow need one that is missing."""

    def searched(listen=lambda _: None, **resources):
        space = {
            "assistants.networks": {"choice": [[], ["cnn4"]]},
            "student.seed": {"choice": list(range(STUDENTS))},
        }
        run = {"trials": 2 * STUDENTS, "sampler": "grid", "resources": resources}
        experiment = load({f"run.{name}": value for name, value in run.items()}, search=space)
        events, library = [], Library(experiment.library)
        announce = EventDispatcher([events.append, listen])
        study = Study(experiment, tmp_path / "run")
        workshop = RayBackend(experiment, library, announce, tmp_path / "run", None)
        try:
            assert workshop._num_slots == SLOTS
            assert workshop.run_trials(TrialRecorder(study, library, announce), 2 * STUDENTS)
        finally:
            workshop.close()
        return events, collections.Counter(trial.state for trial in study.trials())

    return searched


@pytest.mark.parametrize("kind", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
def test_a_search_ends_though_one_slot_is_left(search, taken, kind):
    """The other one that it counted is gone, and does not come back."""
    taken(**{"num_cpus": 0, f"num_{kind}s": 1})
    events, states = search(**{"cpu": 0.5, kind: 1})
    assert states == {"finished": 2 * STUDENTS}
    told = [e for e in events if isinstance(e, StageChanged) and e.label == "assistants/cnn4"]
    assert [e.state for e in told].count("made") == 1
    assert {e.in_trial for e in told if e.state == "running"} == {True}


# Stages and trials by themselves


def test_trials_that_hold_every_slot_make_what_they_wait_for(orders, trial, stage, starts, library):
    """Each a stage of its own, and a stage that both need only once."""
    (one, first), (two, second) = trial(), trial()
    both = stage("both")
    left, right = stage("left", parents=[both]), stage("right", parents=[both])
    orders.submit([both, left, right])
    ends = [
        one.wait_for_stages.remote(library.uri, [left]),
        two.wait_for_stages.remote(library.uri, [right]),
    ]
    assert ray.get(ends, timeout=300) == ["", ""]
    assert sorted(name for name, _, _ in starts()) == ["both", "left", "right"]
    makers = {name: process for name, _, process in starts()}
    assert makers["left"] in (first, second)
    assert makers["right"] in (first, second)
    assert within(60, lambda: orders.all_built([both, left, right]))
    assert orders.num_in_flight == 0


def test_a_stage_goes_on_when_the_trial_that_makes_it_is_lost(
    orders, trial, stage, starts, library, tmp_path
):
    """From its last saved epoch, in the slot that is free now."""
    (one, process), _ = trial(), trial()
    wanted = stage("wanted", gate=2)
    orders.submit([wanted])
    lost = one.wait_for_stages.remote(library.uri, [wanted])
    assert within(300, lambda: any(e.in_trial and e.epoch == 2 for e in orders.heard))
    os.kill(process, signal.SIGKILL)
    (tmp_path / "go").touch()
    assert orders.build([wanted]) == {}
    assert [done for _, done, _ in starts()] == [0, 2]
    assert starts()[0][2] == process != starts()[1][2]
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(lost)


@pytest.mark.slow
def test_a_foundry_that_is_lost_meanwhile_is_replaced(
    orders, trial, stage, starts, library, tmp_path
):
    """The trial stops at the next epoch, and whoever the next foundry asks goes on from there."""
    (one, _), _ = trial(), trial()
    wanted = stage("wanted", gate=2)
    orders.submit([wanted])
    waits = one.wait_for_stages.remote(library.uri, [wanted])
    assert within(300, lambda: any(e.in_trial and e.epoch == 2 for e in orders.heard))
    ray.kill(ray.get_actor(scheduler_actor_name(library), namespace=NAMESPACE))
    (tmp_path / "go").touch()
    assert ray.get(waits, timeout=300) == ""
    assert orders.build([wanted]) == {}
    assert [done for _, done, _ in starts()] == [0, 3]


@pytest.mark.slow
def test_fewer_workers_make_a_stage_where_the_cluster_stays_too_small(
    stage, starts, library, works
):
    """Three are asked for and two slots are there; nobody waits in one."""
    assert works.Noted
    wide = StageJob(stage("wide", spread=3), ResourceSettings(), None, [], {"driver"})

    async def make():
        placement = StagePlacement(library.uri, shrink_after=3.0)
        async with placement.run([wide]) as running:
            said = [said async for said in stream_reports(running, 300.0)]
        return running.num_workers, said[-1][0]

    workers, record = asyncio.run(make())
    assert workers == 2
    assert record.key == wide.stage.key
    assert [(name, done) for name, done, _ in starts()] == [("wide", 0)] * 2
