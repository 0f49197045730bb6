"""A whole search in this process: what happens, in which order, and what is told of it."""

import collections

import pytest
import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution import builder as making
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import (
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
)
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Study


@pytest.fixture(autouse=True)
def _nothing_open():
    making._OPEN_ARTIFACTS.clear()


@pytest.fixture
def work(monkeypatch):
    """The seeds and networks that are really trained."""
    ran = []
    run = TrainNetwork.run

    def counted(self, data, parents, bench):
        ran.append(self.network.label)
        return run(self, data, parents, bench)

    monkeypatch.setattr(TrainNetwork, "run", counted)
    return ran


class Searched:
    """One launch, and all that was heard of it."""

    def __init__(self, experiment, folder, listen=None):
        self.events = []
        self.dispatch = EventDispatcher([self.events.append, *([listen] if listen else [])])
        self.library = Library(experiment.library)
        self.study = Study(experiment, folder)
        self.ledger = TrialRecorder(self.study, self.library, self.dispatch)
        self.inline = LocalBackend(experiment, self.library, self.dispatch)
        self.trials = experiment.run.trials

    def run(self):
        assert self.inline.run_trials(self.ledger, self.trials)
        return self

    def of(self, kind, **fields):
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]


@pytest.fixture
def search(load, tmp_path):
    def searched(changes=None, folder="run", listen=None, **top):
        return Searched(load(changes, **top), tmp_path / folder, listen).run()

    return searched


def test_a_search_tells_everything_in_order(search):
    done = search()
    assert [event.number for event in done.of(TrialStarted)] == list(range(6))
    assert [(e.number, e.state) for e in done.of(TrialEnded)] == [(n, "finished") for n in range(6)]
    for number in range(6):
        told = [e for e in done.events if getattr(e, "number", None) == number]
        assert [type(e) for e in told] == [TrialStarted, TrialReported, TrialReported, TrialEnded]
        assert [e.epoch for e in told[1:3]] == [1, 2]
        started, *_, last, ended = told
        assert set(started.stage_keys) >= {"teacher", "student"}
        assert started.costs["parameters"] == 374
        assert ended.record.key == started.stage_keys["student"]
        assert ended.figures["val_accuracy"] == last.metrics["val_accuracy"]
        assert ended.figures["val_accuracy"] == ended.record.figures["val_accuracy"]
        assert "done" not in last.metrics
        place = done.events.index(started)
        end = done.events.index(ended)
        ready = {e.key for e in done.events[:end] if getattr(e, "state", "") in ("made", "reused")}
        assert ready >= set(started.stage_keys.values()) - {started.stage_keys["student"]}
        assert place < end


def test_a_stage_runs_reports_and_is_made_once(search, work):
    done = search()
    keys = [event.key for event in done.of(StageChanged, state="made")]
    assert len(keys) == len(set(keys))
    assert set(keys) == done.dispatch.made_keys
    assert done.dispatch.reused_keys == set()
    assert done.of(StageChanged, state="reused") == []
    for key in keys:
        told = [(e.state, e.epoch) for e in done.of(StageChanged, key=key)]
        assert told == [("running", 1), ("running", 2), ("made", 0)]
        assert done.of(StageChanged, key=key)[0].epochs == 2
        assert done.of(StageChanged, key=key, state="made")[0].record.key == key
    chains = {tuple(t.values["assistants.networks"]) for t in done.study.trials()}
    prefixes = {chain[:end] for chain in chains for end in range(len(chain) + 1)}
    assert len(keys) == len(prefixes)
    assert len(work) == len(keys) + 6


def test_a_second_launch_makes_nothing(search, work):
    first = search()
    del work[:]
    second = search(folder="again")
    assert work == []
    assert second.dispatch.made_keys == set()
    assert second.dispatch.reused_keys == first.dispatch.made_keys
    assert [t.figures["val_accuracy"] for t in second.study.trials()] == [
        t.figures["val_accuracy"] for t in first.study.trials()
    ]
    assert all(trial.reused for trial in second.study.trials())
    assert not any(trial.reused for trial in first.study.trials())


def test_the_same_seed_finds_the_same(search, tmp_path):
    first = search()
    making._OPEN_ARTIFACTS.clear()
    again = search({"library": str(tmp_path / "other")}, folder="again")
    assert [t.stage_keys for t in first.study.trials()] == [
        t.stage_keys for t in again.study.trials()
    ]
    for one, two in zip(first.study.trials(), again.study.trials(), strict=True):
        for name in ("val_accuracy", "val_nll", "train_loss"):
            assert one.figures[name] == two.figures[name]


def test_one_student_is_trained_once_however_often_it_is_proposed(search, work):
    done = search(search={"student.training.lr": {"choice": [0.05]}})
    assert len(work) == 3
    keys = {trial.stage_keys["student"] for trial in done.study.trials()}
    assert len(keys) == 1
    assert [trial.reused for trial in done.study.trials()] == [False] + [True] * 5
    assert len({trial.figures["val_nll"] for trial in done.study.trials()}) == 1


def test_a_configuration_that_fails_is_told_and_the_search_goes_on(search):
    rates = {"choice": [0.05, 1e30]}
    done = search({"run.sampler": "grid"}, search={"student.training.lr": rates})
    good, bad = sorted(done.study.trials(), key=lambda t: t.values["student.training.lr"])
    assert (good.state, bad.state) == ("finished", "failed")
    assert bad.reason.startswith("Diverged: ")
    assert "try a smaller lr than 1e+30" in bad.reason
    (ended,) = done.of(TrialEnded, state="failed")
    assert (ended.number, ended.reason, ended.record) == (bad.number, bad.reason, None)
    assert not done.library.has(bad.stage_keys["student"])


def test_a_shared_stage_that_fails_is_tried_once_and_named(search, work):
    """All that need it fail at once; those that do not need it go on."""
    search_space = {
        "teacher.training.lr": {"choice": [1e30]},
        "student.teachers": {"choice": [["assistants"], ["teacher"], ["other"]]},
        "student.seed": {"choice": [0, 1]},
    }
    other = {"network": "cnn6", "objective": {"cross_entropy": {}}, "training": {"epochs": 1}}
    done = search({"stages.other": other, "run.sampler": "grid"}, search=search_space)
    states = collections.Counter(trial.state for trial in done.study.trials())
    assert states == {"failed": 4, "finished": 2}
    assert work.count("cnn8") == 1
    for trial in done.study.trials():
        if trial.state == "failed":
            assert trial.reason.startswith("teacher: Diverged: ")
    (failed,) = done.of(StageChanged, state="failed")
    assert failed.label == "teacher"
    assert failed.reason.startswith("Diverged: ")


def test_made_stages_are_returned_or_their_failures(load, library, work):
    announced = []
    experiment = load({"assistants.links": {"cnn6": {"training": {"lr": 1e30}}}})
    inline = LocalBackend(experiment, library, EventDispatcher([announced.append]))
    broken = experiment.stage_graph()
    sound = experiment.stage_graph({"assistants.networks": []})
    failed = inline.build([broken.student, sound.student, sound.student])
    assert failed.keys() == {broken.student.key}
    assert failed[broken.student.key].startswith(
        "assistants/cnn6, which it needs, failed: Diverged"
    )
    assert library.has(sound.student.key)
    told = [(e.label, e.state) for e in announced if e.state == "failed"]
    assert told == [("assistants/cnn6", "failed"), ("student", "failed")]
    assert len(work) == 3


def test_a_stop_is_taken_up_where_it_was(search, work):
    def stop(event):
        if isinstance(event, TrialReported) and (event.number, event.epoch) == (3, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(listen=stop)
    before = len(work)
    resumed = search()
    assert [event.number for event in resumed.of(TrialStarted)] == [3, 4, 5]
    assert [trial.state for trial in resumed.study.trials()] == ["finished"] * 6
    assert len(work) > before


def test_a_stop_ends_what_is_running_as_interrupted(load, tmp_path):
    done = Searched(load(), tmp_path / "run")
    proposal = done.study.ask()
    done.ledger.record_start(proposal)
    done.ledger.record_interruption()
    (ended,) = done.of(TrialEnded)
    assert (ended.number, ended.state) == (0, "interrupted")
    assert done.study.trials()[0].state == "running"


def test_a_trial_that_starts_says_nothing_of_stages_whose_news_is_on_its_way(load, tmp_path):
    """They may just have been made; only a trial that makes them itself knows what it found."""
    done = Searched(load(), tmp_path / "run")
    first, second = done.study.ask(), done.study.ask()
    for _ in build_stages(first.graph.prerequisites, done.library):
        pass
    done.ledger.record_start(first)
    assert done.of(StageChanged) == []
    done.ledger.announce_reused(second)
    assert "teacher" in [event.label for event in done.of(StageChanged, state="reused")]


def test_latency_is_measured_where_it_is_asked_for(search):
    goal = {"maximize": ["student.val_accuracy"], "minimize": ["student.latency_ms"]}
    done = search({"run.trials": 2, "goal": goal})
    for trial in done.study.trials():
        assert trial.state == "finished"
        assert trial.figures["latency_ms"] > 0
    assert "latency_ms" not in search({"run.trials": 1}, folder="other").study.trials()[0].figures


def test_a_limit_on_a_measured_figure_marks_trials_but_stops_none(search):
    limits = {"student.val_nll": 1e-9, "student.parameters": 1000}
    done = search({"run.trials": 2, "goal.subject_to": limits})
    assert [(t.state, t.feasible) for t in done.study.trials()] == [("finished", False)] * 2


def test_a_search_ends_with_its_grid(search):
    done = search({"run.sampler": "grid"}, search={"student.seed": {"integers": [0, 2]}})
    assert len(done.study.trials()) == 3


def test_a_search_that_is_extended_goes_on(search):
    search({"run.trials": 2})
    done = search({"run.trials": 4})
    assert [event.number for event in done.of(TrialStarted)] == [2, 3]
    again = search({"run.trials": 4})
    assert again.events == []


def test_a_stage_computes_with_the_threads_of_its_resources(load, library):
    """As a worker on a cluster does: other numbers of threads round differently."""
    before = torch.get_num_threads()
    experiment = load({"run.resources.cpu": 2})
    shop = LocalBackend(experiment, library, EventDispatcher([]))
    assert shop.build([experiment.stage_graph().expanded_stages["teacher"].stage]) == {}
    shop.close()
    assert torch.get_num_threads() == before
    key = experiment.stage_graph().expanded_stages["teacher"].stage.key
    assert library.record(key).facts["threads"] == 2
