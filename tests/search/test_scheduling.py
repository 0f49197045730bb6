"""Trials end by themselves, by Tune's schedulers, and never under an actor that is starting."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from search import scheduling
from search.room import passes, places
from search.scheduling import ENDED, HELD, IMPATIENT, scheduler
from search.settings import Resources

KINDS = ["none", {"asha": {"grace_epochs": 1}}, {"median": {"grace_epochs": 1, "min_trials": 1}}]


class Told(SimpleNamespace):
    """A trial by its status."""

    __hash__ = object.__hash__


class Controller:
    """What a scheduler sees of Tune: trials by their status."""

    def __init__(self, **status):
        self.trials = {
            name: Told(trial_id=name, status=told, temporary_state=SimpleNamespace(ray_actor=None))
            for name, told in status.items()
        }
        self.stopped = []

    def get_trials(self):
        return list(self.trials.values())

    get_live_trials = get_trials

    def stop_trial(self, trial):
        trial.status = "TERMINATED"
        self.stopped.append(trial.trial_id)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture(params=KINDS, ids=["none", "asha", "median"])
def patient(request, load):
    made = scheduler(load({"run.scheduler": request.param}))
    made.set_search_properties("val_accuracy", "max")
    return made


def end(patient, controller, name):
    last = {ENDED: True, "epoch": 2, "val_accuracy": 0.5, "parameters": 10}
    return patient.on_trial_result(controller, controller.trials[name], last)


def test_an_ended_trial_stops_where_no_actor_starts(patient):
    controller = Controller(first="RUNNING", second="RUNNING")
    assert end(patient, controller, "first") == TrialScheduler.STOP


def test_an_ended_trial_is_held_until_the_other_runs(patient):
    controller = Controller(first="RUNNING", second="PENDING")
    assert end(patient, controller, "first") == TrialScheduler.NOOP
    patient.choose_trial_to_run(controller)
    assert controller.stopped == []
    controller.trials["second"].status = "RUNNING"
    patient.choose_trial_to_run(controller)
    assert controller.stopped == ["first"]


def test_nobody_waits_for_a_trial_that_was_given_an_actor(patient):
    controller = Controller(first="RUNNING", second="PENDING")
    controller.trials["second"].temporary_state.ray_actor = object()
    assert end(patient, controller, "first") == TrialScheduler.STOP


def test_no_trial_is_held_for_long(patient, clock):
    controller = Controller(first="RUNNING", second="PENDING", third="RUNNING")
    end(patient, controller, "first")
    clock.seconds += HELD + 1
    patient.choose_trial_to_run(controller)
    assert controller.stopped == ["first"]
    assert end(patient, controller, "third") == TrialScheduler.STOP
    clock.seconds += IMPATIENT + 1
    assert end(patient, controller, "third") == TrialScheduler.NOOP


@pytest.mark.parametrize(
    ("stages", "wish", "cluster", "count"),
    [
        (64, Resources(cpu=1), {"CPU": 2.0}, 2),
        (64, Resources(cpu=1, gpu=1), {"CPU": 32.0, "GPU": 8.0}, 8),
        (64, Resources(cpu=1, gpu=0.5), {"CPU": 32.0, "GPU": 4.0}, 8),
        (64, Resources(cpu=8, gpu=0.5), {"CPU": 32.0, "GPU": 4.0}, 4),
        (9, Resources(cpu=1), {"CPU": 16.0}, 2),  # a pass of two would hardly share its teacher
        (3, Resources(cpu=1), {"CPU": 16.0}, 1),
        (300, Resources(cpu=1), {"CPU": 2.0}, 5),  # more in turn than at once
        (8, Resources(cpu=1), {}, 1),
    ],
)
def test_a_group_is_shared_out_over_what_the_cluster_has(stages, wish, cluster, count):
    assert passes(stages, places(wish, cluster)) == count
