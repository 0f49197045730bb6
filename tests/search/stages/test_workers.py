"""Stages of several workers: the artifact of one, and nothing left of workers that are lost."""

import functools
import os
import signal
import time
from pathlib import Path

import pytest
import ray
import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.driver.launch import launch
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.experiment.workers import check_worker_capacity
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import StageChanged
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning import ray_backend
from stillhouse.spaces.config.problems import ConfigError

SLOTS = 3
TRAINING = {"epochs": 3, "batch_size": 32, "lr": 0.001, "precision": "float32"}
PLUGINS = '''
"""Kinds of work whose workers fail."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import torch

from stillhouse.search.stages.core.stage import Operation, StageResult


class Shared(Operation):
    """Adds up, in every epoch, what all its workers give; notes each worker's start."""

    kind: ClassVar[str] = "shared"
    log: str
    spread: int = 2

    @property
    def workers(self):
        return self.spread

    @property
    def epochs(self):
        return 4

    def run(self, data, parents, context):
        worker = context.communicator
        checkpointer = worker.shared_checkpointer(context.checkpointer)
        saved = checkpointer.load()
        done, total = (int(saved["epoch"]), float(saved["sum"])) if saved else (0, 0.0)
        with open(f"{self.log}.{worker.rank}", "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} from {done}\\n")
        for epoch in range(done, 4):
            self.happen(epoch, worker, first=not saved)
            given = torch.nn.Parameter(torch.zeros(1))
            given.grad = torch.ones(1)
            worker.all_reduce_gradients([given])
            total += float(given.grad)
            if worker.is_rank_zero:
                checkpointer.save({"epoch": torch.tensor(epoch + 1), "sum": torch.tensor(total)})
            yield {"epoch": epoch + 1.0}
        return StageResult({"sum": torch.tensor(total)}, {"sum": total})

    def happen(self, epoch, worker, first):
        """What goes wrong, if anything."""


class Killed(Shared):
    """Its second worker dies in the third epoch, once."""

    def happen(self, epoch, worker, first):
        if epoch == 2 and first and worker.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Broken(Shared):
    """A program error in its second worker, while the first waits for it."""

    def happen(self, epoch, worker, first):
        if epoch == 1 and worker.rank == 1:
            raise ArithmeticError("nine is not prime")


class Endless(Shared):
    """Its workers stay in the second epoch."""

    def happen(self, epoch, worker, first):
        if epoch == 1:
            time.sleep(3600)
'''


@pytest.fixture(scope="module")
def works(importable):
    """Kinds of work that the workers can import too."""
    return importable("works_of_several", PLUGINS)


@pytest.fixture(scope="module")
def cluster(works):
    """One Ray for all tests here; a search neither starts nor ends it."""
    assert works.Shared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", functools.partial(ray.init, num_cpus=SLOTS, num_gpus=0))
        ray_backend.connect(None)
        patch.setattr(ray_backend, "connect", lambda _: None)
        shutdown = ray.shutdown
        patch.setattr(ray, "shutdown", lambda: None)
        yield
        shutdown()


@pytest.fixture
def ordered(request, tmp_path):
    """Orders on a library of the test's own, and what was heard of them."""
    request.getfixturevalue("cluster")
    heard = []
    library = Library(str(tmp_path / "library"))
    orders = SchedulerClient(library, ResourceSettings(), EventDispatcher([heard.append]))
    yield orders, library, heard
    orders.close()


def stage(work):
    return Stage(work.kind, work, DataConfig.parse({"source": "digits"}))


def starts(log, rank):
    """(process, epoch it went on from) of every start of a worker."""
    lines = Path(f"{log}.{rank}").read_text(encoding="utf-8").splitlines()
    return [(int(line.split()[0]), int(line.split()[2])) for line in lines]


def all_free(seconds=180.0):
    """Whether every slot of the cluster is free, or becomes so in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ray.available_resources().get("CPU", 0.0) == SLOTS:
            return True
        time.sleep(0.2)
    return False


def gone(process, seconds=180.0):
    until = time.monotonic() + seconds
    while Path("/proc", str(process)).exists() and time.monotonic() < until:
        time.sleep(0.2)
    return not Path("/proc", str(process)).exists()


# On Ray


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_search_finds_the_teacher_that_one_worker_makes(load, tmp_path, monkeypatch):
    """Under the same key, the same up to rounding; its epochs are told, its trials rest on it."""
    monkeypatch.chdir(tmp_path)
    space = {"student.training.lr": {"choice": [0.02, 0.05]}}
    changes = {"run.trials": 2, "run.sampler": "grid", "teacher.training": TRAINING}
    alone = load({**changes, "library": str(tmp_path / "alone")}, search=space)
    teacher = next(s for s in alone.stage_graph().student.ancestors() if s.label == "teacher")
    library = Library(alone.library)
    for _ in build_stages([teacher], library):
        pass

    shared = load({**changes, "teacher.training": {**TRAINING, "workers": 2}}, search=space)
    heard = []
    launched = launch(shared, observers=[heard.append])
    assert [trial.state for trial in launched.outcome.trials] == ["finished"] * 2
    told = [e for e in heard if isinstance(e, StageChanged) and e.label == "teacher"]
    assert {event.key for event in told} == {teacher.key}
    assert [e.epoch for e in told if e.state == "running"] == [0, 1, 2, 3]
    assert [e.state for e in told].count("made") == 1
    one = library.open_artifact(teacher.key)
    other = Library(shared.library).open_artifact(teacher.key)
    assert other.record.figures["train_loss"] == pytest.approx(
        one.record.figures["train_loss"], rel=1e-3
    )
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-2, atol=1e-3)
    assert all_free()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_where_nothing_is_searched_the_student_has_workers_too(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {"student.training": {**TRAINING, "workers": 3}, "run.repeats": {"top": 0}}
    heard = []
    launched = launch(load(changes, search={}), observers=[heard.append])
    assert [trial.state for trial in launched.outcome.trials] == ["finished"]
    told = [e for e in heard if isinstance(e, StageChanged) and e.label == "student"]
    assert [e.epoch for e in told if e.state == "running"] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.ray
def test_after_a_lost_worker_all_go_on_from_the_last_saved_epoch(ordered, works, tmp_path):
    orders, library, heard = ordered
    log = str(tmp_path / "log")
    wanted = stage(works.Killed(log=log))
    assert orders.build([wanted]) == {}
    first, second = starts(log, 0), starts(log, 1)
    assert [epoch for _, epoch in first] == [epoch for _, epoch in second] == [0, 2]
    assert library.record(wanted.key).figures == {"sum": 8.0}  # 4 epochs of 2 workers
    assert all_free()
    assert all(gone(process) for process, _ in first + second)
    assert heard[-1].state == "made"


@pytest.mark.slow
@pytest.mark.ray
def test_a_program_error_comes_back_once_with_its_own_message(ordered, works, tmp_path):
    orders, library, _ = ordered
    log = str(tmp_path / "log")
    wanted = stage(works.Broken(log=log))
    assert orders.build([wanted]) == {wanted.key: "ArithmeticError: nine is not prime"}
    assert len(starts(log, 0)) == len(starts(log, 1)) == 1
    assert library.record(wanted.key) is None
    assert all_free()


@pytest.mark.slow
@pytest.mark.ray
def test_when_its_driver_leaves_all_workers_are_stopped(ordered, works, tmp_path):
    orders, _, _ = ordered
    log = str(tmp_path / "log")
    orders.submit([stage(works.Endless(log=log))])
    until = time.monotonic() + 600
    while not all(Path(f"{log}.{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert not all_free(seconds=1)
    orders.close()
    assert all_free()
    assert all(gone(process) for rank in (0, 1) for process, _ in starts(log, rank))


@pytest.mark.slow
@pytest.mark.ray
def test_the_processes_between_may_be_lost_as_well(ordered, works, tmp_path):
    """The one that started the workers dies: what it started goes with it, and all start again."""
    orders, _, _ = ordered
    log = str(tmp_path / "log")
    orders.submit([stage(works.Endless(log=log))])
    until = time.monotonic() + 600
    while not Path(f"{log}.1").exists():
        assert time.monotonic() < until
        time.sleep(0.2)
    for folder in Path("/proc").glob("[0-9]*"):
        line = (folder / "cmdline").read_bytes() if (folder / "cmdline").exists() else b""
        if line.startswith(b"ray::shared x 2") and _ours(folder):
            os.kill(int(folder.name), signal.SIGKILL)
    until = time.monotonic() + 600
    while len(starts(log, 1)) < 2:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert gone(starts(log, 0)[0][0])
    orders.close()
    assert all_free()


def _ours(folder):
    """Whether a process is a child of a child of this one."""
    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
    return (
        int(Path("/proc", parent, "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    )


# What is refused


def refused(load, changes, **top):
    with pytest.raises(ConfigError) as caught:
        load(changes, **top)
    return str(caught.value)


def test_workers_are_in_no_key(load):
    changes = {"teacher.training.workers": 4, "assistants.training.workers": 2}
    plain, spread = load().stage_graph().student, load(changes).stage_graph().student
    assert [s.key for s in spread.ancestors()] == [s.key for s in plain.ancestors()]
    assert [s.operation.workers for s in spread.ancestors()] == [4, 2, 1]


def test_a_trial_is_of_one_worker(load):
    said = refused(load, {"student.training.workers": 2})
    assert "stages.student.training.workers" in said
    assert "a trial runs on one worker" in said
    assert (
        load({"student.training.workers": 2}, search={}).stage_graph().student.operation.workers
        == 2
    )


def test_workers_are_nothing_to_search(load):
    space = {"teacher.training.workers": {"choice": [1, 2]}}
    assert "does not change results" in refused(load, {}, search=space)
    declared = {"teacher.training.workers": "declared"}
    assert "declares no range" in refused(load, {}, search=declared)


def test_workers_do_not_share_a_gpu(load):
    said = refused(load, {"teacher.training.workers": 2, "run.resources.gpu": 0.5})
    assert "run.resources.gpu" in said
    assert "needs a whole GPU" in said
    load({"teacher.training.workers": 2, "run.resources.gpu": 1.0})


def test_kinds_that_have_no_share_to_give_say_so(load, tiny):
    stages = tiny["stages"]
    inner = {"do": "heads", "teacher": "teacher", "training": {"workers": 2}}
    student = {**stages["student"], "teachers": ["inner"]}
    said = refused(
        load,
        {},
        stages={"teacher": stages["teacher"], "inner": inner, "student": student},
        search={},
    )
    assert "heads learn on one worker, found workers: 2; leave it out" in said


def test_all_workers_must_find_room_at_once(load):
    """Where a trial may have begun before, one of them keeps a slot."""
    early = {"student.training.lr": {"choice": [0.1, 0.2]}}
    experiment = load({"teacher.training.workers": 3}, search=early)
    check_worker_capacity(experiment, 3)
    with pytest.raises(ConfigError, match="teacher needs 3 workers at once, but the nodes"):
        check_worker_capacity(experiment, 2)
    late = load({"assistants.training.workers": 3})  # which assistants there are is searched
    check_worker_capacity(late, 4)
    with pytest.raises(ConfigError, match="and a trial waits for them"):
        check_worker_capacity(late, 3)
