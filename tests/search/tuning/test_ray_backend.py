"""The same search on Ray: the same students, each stage made once, lost workers replaced."""

import collections
import functools
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution import builder as making
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import (
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
)
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning import ray_backend
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.search.tuning.ray_backend import RayBackend
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.scheduling import make_scheduler
from stillhouse.search.tuning.study import Study
from stillhouse.spaces.config.problems import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SLOTS = 2
PLUGINS = '''
"""Kinds of work whose failures can be counted."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import torch
from ray import tune

from stillhouse.search.stages.core.stage import BatchOperation, Operation, StageResult


class Noted(Operation):
    """Writes every start of its work, and where it began, into a file."""

    kind: ClassVar[str] = "noted"
    log: str
    name: str

    @property
    def epochs(self):
        return 4

    def start(self, context):
        saved = context.checkpointer.load()
        done = int(saved["epoch"]) if saved else 0
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{self.name} from {done}\\n")
        return done

    def run(self, data, parents, context):
        for epoch in range(self.start(context), 4):
            self.happen(epoch)
            context.checkpointer.save({"epoch": torch.tensor(epoch + 1)})
            yield {"epoch": epoch + 1.0}
        total = sum(float(parent.tensors["sum"]) for parent in parents) + 1
        return StageResult({"sum": torch.tensor(total)}, {"sum": total})

    def happen(self, epoch):
        """What goes wrong, if anything."""


def die(log):
    """End this process once its last report was heard: a dead one's may be lost on their way."""
    patience = time.monotonic() + 60
    while not Path(log).with_name("heard").exists() and time.monotonic() < patience:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(Noted):
    """Its worker dies in the third epoch, once."""

    def happen(self, epoch):
        if epoch == 2 and Path(self.log).read_text(encoding="utf-8").count(self.name) == 1:
            die(self.log)


class Broken(Noted):
    """A program error."""

    def happen(self, epoch):
        if epoch == 1:
            raise ArithmeticError("nine is not prime")


class Carried(Noted, BatchOperation):
    """Made in one pass with others of its kind; one whose name says so breaks the pass."""

    kind: ClassVar[str] = "carried"

    @property
    def batch_key(self):
        return "all"

    @classmethod
    def run_batch(cls, operations, data, parents, context):
        names = " ".join(sorted(work.name for work in operations))
        with open(operations[0].log, "a", encoding="utf-8") as file:
            file.write(f"{names} together\\n")
        if any(work.name == "rotten" for work in operations):
            raise ArithmeticError("a rotten one")
        yield [{"epoch": 1.0} for _ in operations]
        return [StageResult({"sum": torch.ones(1)}, {"sum": 1.0}) for _ in operations]

    def happen(self, epoch):
        if self.name == "rotten":
            raise ArithmeticError("a rotten one")


class Falling(Carried):
    """Its worker dies in the third epoch of the pass, once."""

    @classmethod
    def run_batch(cls, operations, data, parents, context):
        names = " ".join(sorted(work.name for work in operations))
        done = operations[0].start(context)
        for epoch in range(done, 4):
            if epoch == 2 and not done:
                die(operations[0].log)
            context.checkpointer.save({"epoch": torch.tensor(epoch + 1)})
            yield [{"epoch": epoch + 1.0} for _ in operations]
        return [StageResult({"sum": torch.ones(1)}, {"sum": 1.0}) for _ in operations]


class Waiting(Carried):
    """Its pass goes on when there is a file beside the log."""

    @classmethod
    def run_batch(cls, operations, data, parents, context):
        making = super().run_batch(operations, data, parents, context)
        yield next(making)
        while not Path(operations[0].log).with_name("go").exists():
            time.sleep(0.05)
        return (yield from making)


class Brief(tune.Trainable):
    """A trial that is over long before another actor has started."""

    def setup(self, config):
        self.steps = 0

    def reset_config(self, new_config):
        self.steps = 0
        return True

    def step(self):
        time.sleep(0.02)
        self.steps += 1
        return {"process": os.getpid(), "val_accuracy": 0.5, "ended": self.steps == 3}
'''


@pytest.fixture(scope="module")
def works(importable):
    """Kinds of work that the workers can import too."""
    return importable("works_for_ray", PLUGINS)


@pytest.fixture(scope="module")
def cluster(works):
    """One Ray for all tests here; a search neither starts nor ends it."""
    assert works.Noted  # the workers find it as their environment is set before they start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", functools.partial(ray.init, num_cpus=SLOTS, num_gpus=0))
        ray_backend.connect(None)
        patch.setattr(ray_backend, "connect", lambda _: None)
        shutdown = ray.shutdown
        patch.setattr(ray, "shutdown", lambda: None)
        yield
        shutdown()


class Searched:
    """One launch on the cluster, and all that was heard of it."""

    def __init__(self, experiment, folder, listen=None):
        self.events = []
        self.dispatch = EventDispatcher([self.events.append, *([listen] if listen else [])])
        self.library = Library(experiment.library)
        self.study = Study(experiment, folder)
        ledger = TrialRecorder(self.study, self.library, self.dispatch)
        workshop = RayBackend(experiment, self.library, self.dispatch, folder, None)
        try:
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
def search(load, tmp_path):
    def searched(changes=None, folder="run", listen=None, **top):
        return Searched(load(changes, **top), tmp_path / folder, listen)

    return searched


@pytest.fixture
def inline(load, tmp_path):
    """The same search in this process: its library and its trials."""

    def searched(changes):
        making._OPEN_ARTIFACTS.clear()
        experiment = load({**changes, "library": str(tmp_path / "inline")})
        library, announce = Library(experiment.library), EventDispatcher([])
        study = Study(experiment, tmp_path / "inline-run")
        ledger = TrialRecorder(study, library, announce)
        LocalBackend(experiment, library, announce).run_trials(ledger, experiment.run.trials)
        return library, study.trials()

    return searched


@pytest.fixture
def orders(library):
    """Orders of a driver; each placed on the same library."""
    placed = []

    def open_orders(listen=lambda _: None):
        placed.append(SchedulerClient(library, ResourceSettings(), EventDispatcher([listen])))
        return placed[-1]

    yield open_orders
    for each in placed:
        each.close()


def stage(work, *parents):
    return Stage(work.name, work, DataConfig.parse({"source": "digits"}), parents)


def lines(log):
    return Path(log).read_text(encoding="utf-8").splitlines()


def processes(title):
    """The cluster's processes of that title: children of a child of this one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(title.encode()):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                grandparent = (
                    Path("/proc", parent, "stat").read_text().rpartition(")")[2].split()[1]
                )
                if int(grandparent) == os.getpid():
                    yield int(folder.name)
        except (FileNotFoundError, ProcessLookupError):
            continue


# The same search


def test_ray_finds_what_inline_finds(search, inline):
    """24 trials over a teacher and three assistants: 4 stages, each made once."""
    changes = {"run.trials": 24}
    done = search(changes)
    assert done.ended
    assert done.states() == {"finished": 24}
    made = [event.key for event in done.of(StageChanged, state="made")]
    assert len(made) == len(set(made)) == 4
    assert set(made) == done.dispatch.made_keys
    assert done.dispatch.reused_keys == set()
    for key in made:
        told = done.of(StageChanged, key=key, state="running")
        assert [e.epoch for e in told] == [0, 1, 2]
        assert all(e.node for e in told)
    names = collections.Counter(record.name for record in done.library.records())
    assert names == {"teacher": 1, "assistants/cnn6": 1, "assistants/cnn4": 2, "student": 24}
    _in_order(done)

    library, theirs = inline(changes)
    ours = done.study.trials()
    assert [t.values for t in ours] == [t.values for t in theirs]
    assert [t.stage_keys for t in ours] == [t.stage_keys for t in theirs]
    for one, two in zip(ours, theirs, strict=True):
        student = one.stage_keys["student"]
        tensors, other = (
            done.library.open_artifact(student).tensors,
            library.open_artifact(student).tensors,
        )
        assert all(torch.equal(tensors[name], other[name]) for name in other)
        for name in ("val_accuracy", "val_nll", "train_loss", "parameters"):
            assert one.figures[name] == two.figures[name]


def _in_order(done):
    """Every trial starts when all it rests on is there, reports its epochs, and ends."""
    for number in range(24):
        told = [e for e in done.events if getattr(e, "number", None) == number]
        kinds = [TrialWaiting, TrialStarted, TrialReported, TrialReported, TrialEnded]
        assert [type(e) for e in told] == kinds
        waiting, started, first, last, ended = told
        assert {s.key for s in waiting.stages} < set(started.stage_keys.values())
        assert [first.epoch, last.epoch] == [1, 2]
        assert ended.record.key == started.stage_keys["student"]
        assert ended.figures["val_accuracy"] == ended.record.figures["val_accuracy"]
        before = done.events[: done.events.index(ended)]
        ready = {e.key for e in before if getattr(e, "state", "") in ("made", "reused")}
        assert ready >= set(started.stage_keys.values()) - {started.stage_keys["student"]}


def test_one_student_is_trained_once_however_often_it_is_proposed(search):
    """Also where its proposals would run at the same time."""
    done = search(search={"student.training.lr": {"choice": [0.05]}})
    assert done.states() == {"finished": 6}
    assert sorted(trial.reused for trial in done.study.trials()) == [False] + [True] * 5
    assert len({trial.stage_keys["student"] for trial in done.study.trials()}) == 1


def test_what_a_stage_rests_on_is_told_too(works, orders, tmp_path):
    """Repeats are ordered by their students alone; their assistants are stages made as well."""
    events = []
    first = stage(works.Noted(log=str(tmp_path / "log"), name="first"))
    second = stage(works.Noted(log=str(tmp_path / "log"), name="second"), first)
    assert orders(events.append).build([second]) == {}
    assert [e.label for e in events if e.state == "made"] == ["first", "second"]


def carried(works, log, *names, kind="Carried"):
    teacher = stage(works.Noted(log=str(log), name="teacher"))
    return [stage(getattr(works, kind)(log=str(log), name=name), teacher) for name in names]


def noting(heard, stage, path):
    """A listener that notes in a file when it has heard of a stage's second epoch."""

    def listen(event):
        heard.append(event)
        if event.key == stage.key and event.epoch == 2:
            path.touch()

    return listen


def within(seconds, holds):
    """Whether something comes to hold in time."""
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


def test_what_can_be_made_in_one_pass_is(works, orders, tmp_path):
    """Also when two searches ask for parts of it at the same time; each lands by itself."""
    log = tmp_path / "log"
    first, second = orders(), orders()
    stages = carried(works, log, "a", "b", "c", "d", "e")
    first.submit(stages[:3])
    second.submit(stages[2:])
    assert first.build(stages[:3]) == second.build(stages[2:]) == {}
    assert [line for line in lines(log) if "together" in line] == ["a b c d e together"]
    assert all(Library(first._library.uri).has(each.key) for each in stages)


def test_a_pass_that_breaks_is_made_one_by_one(works, orders, tmp_path):
    log = tmp_path / "log"
    good, bad = carried(works, log, "good", "rotten")
    assert orders().build([good, bad]) == {bad.key: "ArithmeticError: a rotten one"}
    assert "good from 0" in lines(log)


def test_a_pass_that_loses_its_worker_goes_on_from_its_last_epoch(works, orders, tmp_path):
    log, heard = tmp_path / "log", []
    first, second = carried(works, log, "a", "b", kind="Falling")
    assert orders(noting(heard, second, tmp_path / "heard")).build([first, second]) == {}
    assert lines(log) == ["teacher from 0", "a from 0", "a from 2"]
    for each in (first, second):
        told = [e.epoch for e in heard if e.key == each.key and e.state == "running"]
        assert told == [0, 1, 2, 0, 3, 4]


def test_a_pass_that_nobody_wants_any_more_is_stopped_for_good(works, orders, tmp_path):
    """Not taken up again one by one, as a pass that broke is; who asks later has it made."""
    log = tmp_path / "log"
    stages = carried(works, log, "a", "b", kind="Waiting")
    left = orders()
    left.submit([*stages[0].parents, *stages])
    assert within(120, lambda: log.exists() and "a b together" in lines(log))
    left.close()
    time.sleep(2.0)
    assert lines(log) == ["teacher from 0", "a b together"]
    log.with_name("go").touch()
    assert orders().build(stages) == {}
    assert lines(log) == ["teacher from 0", "a b together", "a b together"]


def test_no_news_is_lost_where_the_foundry_was_out_of_reach(works, orders, library, tmp_path):
    """What a search had made counts as made, also where it was told while nobody listened."""
    work = stage(works.Noted(log=str(tmp_path / "log"), name="work"))
    heard, deaf = [], threading.Event()

    def listen(event):
        heard.append(event.state)
        deaf.wait(30)

    wanting = orders(listen)
    wanting.submit([work])
    assert within(120, lambda: library.has(work.key) and heard)
    time.sleep(3.0)  # the foundry tells a little later
    wanting._reconnect()
    deaf.set()
    assert within(120, lambda: wanting.all_built([work]))
    assert [state for state in heard if state != "running"] == ["queued", "made"]


def test_one_slot_is_enough(search):
    """A trial makes what it rests on by itself, since nobody else could."""
    changes = {"run.trials": 4, "run.resources.cpu": SLOTS}
    done = search(changes)
    assert done.states() == {"finished": 4}
    assert {e.label for e in done.of(StageChanged, state="made")} >= {"teacher"}
    again = search(changes, folder="again")
    assert again.dispatch.made_keys == set()
    assert again.dispatch.reused_keys == done.dispatch.made_keys


def test_a_trial_that_fits_on_no_node_is_a_mistake(search):
    with pytest.raises(ConfigError, match="asks for 99 cpu and 0 gpu, but the nodes of this clust"):
        search({"run.resources.cpu": 99})


# What fails


def test_what_fails_is_told_and_the_search_goes_on(search):
    """A shared stage fails all that need it, tried once; a configuration fails alone."""
    space = {
        "teacher.training.lr": {"choice": [1e30]},
        "student.teachers": {"choice": [["assistants"], ["other"]]},
        "student.training.lr": {"choice": [0.05, 1e30]},
    }
    other = {"network": "cnn6", "objective": {"cross_entropy": {}}, "training": {"epochs": 1}}
    done = search({"stages.other": other, "run.sampler": "grid"}, search=space)
    assert done.states() == {"failed": 3, "finished": 1}
    reasons = collections.Counter()
    for trial in done.study.trials():
        if trial.state == "failed":
            reasons[trial.reason] += 1
            assert "try a smaller lr than 1e+30" in trial.reason
            assert not done.library.has(trial.stage_keys["student"])
            assert done.of(TrialEnded, number=trial.number)[0].reason == trial.reason
    assert sorted(reasons.values()) == [1, 2]
    assert len(done.of(StageChanged, label="teacher", state="failed")) == 1


def test_a_scheduler_stops_trials_and_optuna_is_told_so(search):
    changes = {
        "run.trials": 10,
        "run.scheduler": {"asha": {"grace_epochs": 1, "reduction_factor": 2}},
        "student.training.epochs": 8,
    }
    done = search(changes, search={"student.training.lr": {"log_uniform": [1e-4, 0.1]}})
    states = done.states()
    assert states["pruned"] >= 1
    assert states["finished"] >= 1
    assert sum(states.values()) == states["pruned"] + states["finished"] == 10
    told = {trial.number: trial.state for trial in done.study._study.trials}
    for trial in done.study.trials():
        if trial.state == "pruned":
            assert told[trial.number] == TrialState.PRUNED
            epoch = int(trial.figures["epoch"])
            assert 1 <= epoch < 8
            assert trial.reason == f"stopped by scheduler at epoch {epoch}"
            assert not done.library.has(trial.stage_keys["student"])
            (ended,) = done.of(TrialEnded, number=trial.number)
            assert ended.state == "pruned"
        else:
            assert told[trial.number] == TrialState.COMPLETE
            assert done.library.has(trial.stage_keys["student"])


def test_a_lost_trial_is_started_again(search, inline):
    """All actors are killed in the middle; the search comes to the same end."""
    killed = []

    def kill(event):
        if not killed and isinstance(event, TrialReported) and event.epoch == 3:
            killed.extend(processes("ray::Trial"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    changes = {"run.trials": 3, "student.training.epochs": 40}
    done = search(changes, listen=kill)
    assert killed
    assert done.states() == {"finished": 3}
    for one, two in zip(done.study.trials(), inline(changes)[1], strict=True):
        assert one.stage_keys == two.stage_keys
        assert one.figures["val_nll"] == two.figures["val_nll"]


# The foundry by itself


def test_a_lost_worker_is_replaced_and_the_stage_goes_on(works, orders, library, tmp_path):
    log = str(tmp_path / "log")
    first = stage(works.Noted(log=log, name="first"))
    killed = stage(works.Killed(log=log, name="killed"), first)
    heard = []
    assert orders(noting(heard, killed, tmp_path / "heard")).build([killed]) == {}
    assert lines(log) == ["first from 0", "killed from 0", "killed from 2"]
    assert library.record(killed.key).figures == {"sum": 2.0}
    told = [e.epoch for e in heard if e.key == killed.key and e.state == "running"]
    assert told == [0, 1, 2, 0, 3, 4]
    assert [e.state for e in heard if e.key == killed.key and e.state != "running"] == [
        "queued",
        "queued",  # once more: its worker was lost
        "made",
    ]


def test_a_program_error_fails_all_who_wait_with_one_reason(works, orders, library, tmp_path):
    log = str(tmp_path / "log")
    broken = stage(works.Broken(log=log, name="broken"))
    after = [stage(works.Noted(log=log, name=f"after {i}"), broken) for i in range(3)]
    sound = stage(works.Noted(log=log, name="sound"))
    placed = orders()
    failed = placed.build([broken, *after, sound])
    assert failed.keys() == {s.key for s in (broken, *after)}
    assert failed[broken.key] == "ArithmeticError: nine is not prime"
    told = "broken, which it needs, failed: ArithmeticError: nine is not prime"
    assert {failed[s.key] for s in after} == {told}
    assert sorted(lines(log)) == ["broken from 0", "sound from 0"]
    assert library.has(sound.key)
    assert placed.failure_reason([sound, broken]) == "broken: ArithmeticError: nine is not prime"
    assert not placed.all_built([sound, broken])
    assert placed.all_built([sound])


def test_a_failure_is_not_kept_for_the_next_who_asks(works, orders, tmp_path):
    log = str(tmp_path / "log")
    broken = stage(works.Broken(log=log, name="broken"))
    for attempt in range(2):
        assert orders().build([broken]).keys() == {broken.key}
        assert len(lines(log)) == attempt + 1


def test_several_orders_of_one_stage_are_one_flight(works, orders, tmp_path):
    log = str(tmp_path / "log")
    shared = stage(works.Noted(log=log, name="shared"))
    above = [stage(works.Noted(log=log, name=f"above {i}"), shared) for i in range(3)]
    placed = [orders() for _ in above]
    for each, wanted in zip(placed, above, strict=True):
        each.submit([shared, wanted])
    for each, wanted in zip(placed, above, strict=True):
        assert each.build([shared, wanted]) == {}
        assert each.all_built([shared, wanted])
    assert sorted(lines(log)) == [
        "above 0 from 0",
        "above 1 from 0",
        "above 2 from 0",
        "shared from 0",
    ]


def test_what_is_in_the_library_is_not_asked_for(works, orders, tmp_path):
    log = str(tmp_path / "log")
    work = stage(works.Noted(log=log, name="work"))
    assert orders().build([work]) == {}
    heard = []
    assert orders(heard.append).build([work]) == {}
    assert [event.state for event in heard] == ["reused"]
    assert lines(log) == ["work from 0"]


def test_a_damaged_parent_is_made_again(works, orders, library, tmp_path):
    log = str(tmp_path / "log")
    parent = stage(works.Noted(log=log, name="parent"))
    assert orders().build([parent]) == {}
    next(Path(library.uri).rglob("*.safetensors")).write_bytes(b"")
    child = stage(works.Noted(log=log, name="child"), parent)
    assert orders().build([child]) == {}
    assert lines(log) == ["parent from 0", "parent from 0", "child from 0"]
    assert Library(library.uri).open_artifact(child.key).record.figures == {"sum": 2.0}


class Ordered(Searcher):
    """Ten short trials, two at a time, the second one once the first one runs."""

    def __init__(self):
        super().__init__()
        self.handed, self.running, self.heard = 0, set(), False
        self.processes = []

    def set_search_properties(self, metric, mode, config, **spec):
        return True

    def suggest(self, trial_id):
        if self.handed == 10:
            return self.FINISHED
        if len(self.running) == 2 or (self.handed == 1 and not self.heard):
            return None
        self.handed += 1
        self.running.add(trial_id)
        return {}

    def on_trial_result(self, trial_id, result):
        self.heard = True

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.running.discard(trial_id)
        self.processes.append(result["process"])

    def save(self, checkpoint_path):
        pass

    def restore(self, checkpoint_path):
        pass


def test_short_trials_use_every_slot(works, load, tmp_path):
    searcher = Ordered()
    tune.Tuner(
        tune.with_resources(works.Brief, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(load(), lambda *_: False),
            metric="val_accuracy",
            mode="max",
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            verbose=0,
        ),
    ).fit()
    assert len(searcher.processes) == 10
    assert len(set(searcher.processes)) == SLOTS
