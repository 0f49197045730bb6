"""Trials end by themselves, by Tune's schedulers, and never under an actor that is starting."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from stillhouse.search.execution.capacity import capacity, num_batches
from stillhouse.search.experiment import max_epochs
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.max_epochs import most_epochs
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.experiment.tuner_settings import SCHEDULERS
from stillhouse.search.tuning import scheduling
from stillhouse.search.tuning.scheduling import ENDED_KEY, HOLD_PAUSE_S, MAX_HOLD_S, make_scheduler


class FakeTrial(SimpleNamespace):
    """A trial by its status."""

    __hash__ = object.__hash__


class Controller:
    """What a scheduler sees of Tune: trials by their status."""

    def __init__(self, **status):
        self.trials = {
            name: FakeTrial(
                trial_id=name, status=state, temporary_state=SimpleNamespace(ray_actor=None)
            )
            for name, state in status.items()
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


@pytest.fixture(params=SCHEDULERS.names())
def scheduler(request, load):
    stopper = make_scheduler(load({"run.scheduler": request.param}), lambda *_: False)
    stopper.set_search_properties("val_accuracy", "max")
    return stopper


FAST = {"epochs": 3, "batch_size": 64, "lr": 0.05}
TAUGHT = {"cross_entropy": {}, "soft_targets": {}}
LABELS = {"cross_entropy": {}}
FINALS = {
    "train": {"network": "cnn2", "teachers": ["teacher"], "objective": TAUGHT, "training": FAST},
    "peers": {
        "do": "peers",
        "network": "cnn2",
        "peers": ["cnn2"],
        "teachers": ["teacher"],
        "objective": TAUGHT,
        "training": FAST,
    },
    "prune": {"do": "prune", "start": "teacher", "training": FAST},
    "compress": {
        "do": "compress",
        "start": "teacher",
        "prune": {"training": FAST},
        "quantise": {"training": FAST, "how": "ptq"},
    },
    "chain": {
        "do": "chain",
        "teacher": "teacher",
        "networks": ["cnn4", "cnn2"],
        "objective": TAUGHT,
        "training": FAST,
    },
}
MOST_EPOCHS = [
    ("train", {"training.epochs": {"choice": [2, 12, 6]}}, 12),
    ("train", {"training.epochs": {"integers": [1, 10, 4]}}, 9),
    ("train", {"training.epochs": "declared"}, 300),
    ("train", {"training": {"choice": [{"epochs": 7}, {"epochs": 2, "lr": 0.1}]}}, 7),
    ("train", {"training": {"choice": [{"lr": 0.1}]}}, 60),
    ("train", {"training.lr": "declared"}, 3),
    ("train", {"training.epochs": {"choice": [1, 2]}}, 2),  # the file's own is no trial
    ("train", {"training.epochs": {"integers": [1, 10**12]}}, 10**12),
    ("peers", {"training.epochs": {"choice": [4, 8]}}, 8),
    ("prune", {"training.epochs": {"choice": [4, 8]}}, 8),
    ("prune", {"objective": {"choice": [None, LABELS]}, "training.epochs": {"choice": [4, 5]}}, 5),
    # The first step's epochs are none of the student's, as long as it is the first.
    ("compress", {"prune.training.epochs": {"choice": [4, 8]}}, 1),
    ("compress", {"order": "declared", "prune.training.epochs": {"choice": [4, 8]}}, 8),
    ("compress", {"quantise.how": "declared", "quantise.training.epochs": {"choice": [5, 9]}}, 9),
    ("compress", {"quantise": {"choice": [{"how": "qat", "training": {"epochs": 11}}]}}, 11),
    ("chain", {"training.epochs": {"choice": [5]}}, 5),
    ("chain", {"links.*.training.epochs": {"choice": [5, 6]}}, 6),
    (
        "chain",
        {"networks": {"chain": ["cnn4", "cnn2"]}, "links.*.training.epochs": {"integers": [1, 9]}},
        9,
    ),
]


@pytest.mark.parametrize(("kind", "search", "most"), MOST_EPOCHS)
def test_no_trial_of_a_search_is_cut_at_the_epochs_of_the_file(kind, search, most):
    """Tune stops a trial that reaches ``max_t``, so the longest trial decides it."""
    teacher = {"network": "cnn8", "objective": LABELS, "training": FAST}
    experiment = load_experiment(
        {
            "name": "longest",
            "data": {"source": "digits", "limit": 100},
            "stages": {"teacher": teacher, "student": FINALS[kind]},
            "search": {f"student.{path}": domain for path, domain in search.items()},
            "goal": {"maximize": "student.val_accuracy"},
            "run": {"scheduler": {"asha": {"grace_epochs": 1}}, "baselines": False},
        }
    )
    assert most_epochs(experiment) == most
    assert make_scheduler(experiment, None).scheduler._max_t == most


def test_the_answer_for_a_large_space_is_not_too_small(load, monkeypatch):
    """Of more configurations than are laid out, the numbers of epochs are read."""
    monkeypatch.setattr(max_epochs, "_MAX_CONFIGURATIONS", 2)
    trainings = [{**FAST, "epochs": number} for number in (1, 2, 3, 9)]
    experiment = load(search={"student.training": {"choice": trainings}})
    assert most_epochs(experiment) == 9


def end(scheduler, controller, name):
    last = {ENDED_KEY: True, "epoch": 2, "val_accuracy": 0.5, "parameters": 10}
    return scheduler.on_trial_result(controller, controller.trials[name], last)


def test_an_ended_trial_stops_where_no_actor_starts(scheduler):
    controller = Controller(first="RUNNING", second="RUNNING")
    assert end(scheduler, controller, "first") == TrialScheduler.STOP


def test_an_ended_trial_is_held_until_the_other_runs(scheduler):
    controller = Controller(first="RUNNING", second="PENDING")
    assert end(scheduler, controller, "first") == TrialScheduler.NOOP
    scheduler.choose_trial_to_run(controller)
    assert controller.stopped == []
    controller.trials["second"].status = "RUNNING"
    scheduler.choose_trial_to_run(controller)
    assert controller.stopped == ["first"]


def test_nobody_waits_for_a_trial_that_was_given_an_actor(scheduler):
    controller = Controller(first="RUNNING", second="PENDING")
    controller.trials["second"].temporary_state.ray_actor = object()
    assert end(scheduler, controller, "first") == TrialScheduler.STOP


def test_no_trial_is_held_for_long(scheduler, clock):
    controller = Controller(first="RUNNING", second="PENDING", third="RUNNING")
    end(scheduler, controller, "first")
    clock.seconds += MAX_HOLD_S + 1
    scheduler.choose_trial_to_run(controller)
    assert controller.stopped == ["first"]
    assert end(scheduler, controller, "third") == TrialScheduler.STOP
    clock.seconds += HOLD_PAUSE_S + 1
    assert end(scheduler, controller, "third") == TrialScheduler.NOOP


def test_the_study_may_stop_what_the_scheduler_lets_go_on(load):
    """It is asked at every epoch, also to get the epoch's value, and not at a trial's end."""
    asked = []

    def should_prune(trial_id, result):
        asked.append((trial_id, result["epoch"]))
        return result["epoch"] == 2

    stopper = make_scheduler(load({"run.scheduler": "none"}), should_prune)
    controller = Controller(first="RUNNING")
    trial = controller.trials["first"]
    decisions = [stopper.on_trial_result(controller, trial, {"epoch": e}) for e in (1, 2)]
    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.STOP]
    end(stopper, controller, "first")
    assert asked == [("first", 1), ("first", 2)]


def test_a_trial_that_tune_stops_gives_the_study_its_last_value(load):
    asked = []
    asha = {"asha": {"grace_epochs": 1, "reduction_factor": 2}}
    stopper = make_scheduler(load({"run.scheduler": asha}), lambda *each: asked.append(each))
    stopper.set_search_properties("val_accuracy", "max")
    controller = Controller(first="RUNNING", second="RUNNING")
    decisions = []
    for name, accuracy in (("first", 0.9), ("second", 0.1)):
        trial = controller.trials[name]
        stopper.on_trial_add(controller, trial)
        result = {"epoch": 1, "val_accuracy": accuracy}
        decisions.append(stopper.on_trial_result(controller, trial, result))
    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.STOP]
    assert [trial_id for trial_id, _ in asked] == ["first", "second"]


@pytest.mark.parametrize(
    ("stages", "wish", "cluster", "count"),
    [
        (64, ResourceSettings(cpu=1), {"CPU": 2.0}, 2),
        (64, ResourceSettings(cpu=1, gpu=1), {"CPU": 32.0, "GPU": 8.0}, 8),
        (64, ResourceSettings(cpu=1, gpu=0.5), {"CPU": 32.0, "GPU": 4.0}, 8),
        (64, ResourceSettings(cpu=8, gpu=0.5), {"CPU": 32.0, "GPU": 4.0}, 4),
        (
            9,
            ResourceSettings(cpu=1),
            {"CPU": 16.0},
            2,
        ),  # a pass of two would hardly share its teacher
        (3, ResourceSettings(cpu=1), {"CPU": 16.0}, 1),
        (300, ResourceSettings(cpu=1), {"CPU": 2.0}, 5),  # more in turn than at once
        (8, ResourceSettings(cpu=1), {}, 1),
    ],
)
def test_a_group_is_shared_out_over_what_the_cluster_has(stages, wish, cluster, count):
    assert num_batches(stages, capacity(wish, cluster)) == count
