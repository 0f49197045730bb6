"""``run.screen``: who is trained at all, judged by students trained on distilled data alone."""

from __future__ import annotations

import copy
import csv
import functools
import json
import math
import random
from dataclasses import dataclass, replace

import pytest
import ray
from scipy.stats import spearmanr

from stillhouse.methods.core.data.facts import facts
from stillhouse.search.artifacts.store import Library
from stillhouse.search.driver.launch import launch
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.schema import ScreenSettings
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import (
    ScreenDisabled,
    StageChanged,
    TrialEnded,
    TrialStarted,
)
from stillhouse.search.monitoring.mlflow.mapper import MlflowMapper
from stillhouse.search.report import write_report
from stillhouse.search.report.core.headline import screen_sentence
from stillhouse.search.results.outcome import Outcome, TrialResult, to_plain
from stillhouse.search.results.screening import (
    MIN_CHECKED,
    MIN_PAIRS,
    ScreenDecision,
    screen_quality,
    weighted_spearman,
)
from stillhouse.search.runs.result import read_outcome
from stillhouse.search.stages.ops.distil_data import DistilData
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.search.tuning.proxy_screen import ProxyScreen
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.searcher import GatedSearcher
from stillhouse.search.tuning.study import Study
from stillhouse.spaces.config.problems import ConfigError

SMALL = {"lenet5": {"width": 0.25}}
LR = "student.training.lr"
GOOD, ABSURD = (0.03, 0.1), (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
LRS = [1e-9, 0.03, 1e-8, 1e-7, 1e-6, 1e-5, 0.1, 1e-4]
"""One that learns in each round of four."""
TOLD = {
    "name": "screened",
    "data": {"source": "digits", "resize": 12, "limit": 300},
    "stages": {
        "few": {
            "do": "distil_data",
            "network": SMALL,
            "examples": 40,
            "images": "real",
            "labels": "hard",
            "passes": 1,
            "iterations": 1,
            "batch_size": 32,
            "rate": 0.02,
        },
        "student": {
            "network": SMALL,
            "objective": {"cross_entropy": {}},
            "training": {"epochs": 4, "batch_size": 20, "lr": 0.05},
        },
    },
    "search": {LR: {"choice": LRS}},
    "goal": {"maximize": "student.val_accuracy"},
    "run": {
        "trials": len(LRS),
        "sampler": "grid",
        "repeats": {"top": 0},
        "baselines": False,
        "screen": {"stage": "few", "check": 0.0, "epochs": 20},
    },
}


@pytest.fixture
def loaded(tmp_path):
    def load(changes=None, **top):
        told = {**copy.deepcopy(TOLD), "library": str(tmp_path / "library"), **top}
        return load_experiment(told, changes)

    return load


class Searched:
    """One launch in this process, and all that was heard of it."""

    def __init__(self, experiment, folder):
        self.experiment, self.folder, self.events = experiment, folder, []
        self.library = Library(experiment.library)
        self.study = Study(experiment, folder)
        announce = EventDispatcher([self.events.append])
        self.ledger = TrialRecorder(self.study, self.library, announce)
        self.inline = LocalBackend(experiment, self.library, announce)

    def run(self):
        assert self.inline.run_trials(self.ledger, self.experiment.trials)
        return self

    @property
    def trials(self):
        return self.study.trials()

    def real(self):
        return [trial for trial in self.trials if trial.state == "finished"]


@pytest.fixture
def searched(loaded, tmp_path):
    return lambda changes=None, **top: Searched(loaded(changes, **top), tmp_path / "run").run()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The search of :data:`TOLD`, run once."""
    folder = tmp_path_factory.mktemp("screened")
    told = {**copy.deepcopy(TOLD), "library": str(folder / "library")}
    return Searched(load_experiment(told), folder / "run").run()


def best(trials):
    return max(trials, key=lambda trial: trial.figures["val_accuracy"])


# What it is for


def test_absurd_rates_are_screened_out_and_the_good_ones_trained(done):
    assert [trial.values[LR] for trial in done.real()] == list(GOOD)
    out = [trial for trial in done.trials if trial.state == "pruned"]
    assert {trial.values[LR] for trial in out} == set(ABSURD)
    for trial in out:
        value = trial.figures["screen_val_accuracy"]
        rank = trial.screen.rank
        assert trial.reason == f"screened out: {value:.4g} on distilled data, rank {rank} of 4"
        assert not done.library.has(trial.stage_keys["student"])


def test_training_all_for_real_finds_no_better_one(loaded, tmp_path, done):
    alone = {"student": copy.deepcopy(TOLD["stages"]["student"])}
    run = {**TOLD["run"], "screen": None}
    unscreened = Searched(loaded(stages=alone, run=run), tmp_path / "all").run()
    assert len(unscreened.real()) == len(LRS) > len(done.real()) == 2
    assert best(unscreened.real()).stage_keys["student"] == best(done.real()).stage_keys["student"]


def test_the_screens_figure_is_among_those_of_every_trial(done):
    for trial in done.trials:
        student = screen_student(done.experiment, trial.values)
        reached = done.library.record(student.key).figures["val_accuracy"]
        assert trial.figures["screen_val_accuracy"] == reached
        assert trial.screen.keys == tuple(stage.key for stage in student.ancestors())
    ended = [event for event in done.events if isinstance(event, TrialEnded)]
    assert [e.number for e in ended if e.state == "pruned"] == [0, 2, 3, 4, 5, 7]
    assert all("screen_val_accuracy" in event.figures for event in ended)
    made = [e.label for e in done.events if isinstance(e, StageChanged) and e.state == "made"]
    assert made == ["few"] + ["student (screen)"] * len(LRS)


@pytest.mark.slow
def test_a_worthless_screen_switches_itself_off(searched, monkeypatch):
    """Labels a class further on: who learns them is wrong everywhere, who learns nothing is not."""
    run = DistilData.run

    def shifted(self, data, parents, bench):
        made = yield from run(self, data, parents, bench)
        tensors = {**made.tensors, "labels": made.tensors["labels"].roll(1, dims=1)}
        return replace(made, tensors=tensors)

    monkeypatch.setattr(DistilData, "run", shifted)
    lrs = [1e-9, 0.1, 0.15, 1e-8, 0.12, 1e-7, 0.14, 1e-6, 1e-5, 1e-4]
    settings = {"run.screen.keep": 0.9, "run.trials": len(lrs), "run.screen.epochs": 60}
    other_key = {"few.clip": None}  # this process may hold images under the module's own
    done = searched(settings | other_key, search={LR: {"choice": lrs}})
    said = [trial.screen.said for trial in done.trials]
    assert said == ["kept"] * 8 + ["off"] * 2  # ceil(0.9 * 4) = 4 of each round
    assert len(done.real()) == len(lrs)
    found = screen_quality(done.trials, "val_accuracy")
    assert len(found.pairs) == MIN_PAIRS
    assert found.spearman == pytest.approx(spearmanr(*zip(*found.pairs, strict=True)).statistic)
    assert found.spearman < 0.3
    (event,) = (e for e in done.events if isinstance(e, ScreenDisabled))
    assert event.reason == found.disabled_reason
    assert "is below run.screen.trust: 0.3" in found.disabled_reason
    # A resume goes on without it, and does not say so again.
    experiment = replace(done.experiment, run=done.experiment.run.model_copy(update={"trials": 13}))
    more = Searched(experiment, done.folder)
    screen = screen_of(more, Scored(lambda _: 0.0))
    assert screen._disabled_reason == found.disabled_reason


# Who passes


class Scored:
    """A library and a bench: a student of a seed reaches what it is said to; or fails."""

    def __init__(self, reached, broken=(), settled=lambda _: True):
        self.reached, self.broken, self.fixed_configuration = reached, broken, settled
        self.placed = {}

    def record(self, key):
        seed = self.placed[key].operation.seed
        return None if seed in self.broken else Figures({"val_accuracy": self.reached(seed)})

    def submit(self, stages):
        self.placed |= {stage.key: stage for stage in stages}

    def all_built(self, stages):
        return all(
            self.fixed_configuration(stage.operation.seed) and not self.failure_reason([stage])
            for stage in stages
        )

    def failure_reason(self, stages):
        failed = [stage for stage in stages if self.fails(stage)]
        return f"{failed[0].label}: Diverged: too far" if failed else ""

    def fails(self, stage):
        name = "few" if stage.operation.kind == "distil_data" else stage.operation.seed
        return name in self.broken


@dataclass
class Figures:
    figures: dict


def screen_of(search, scored, concurrent=1):
    trials = search.experiment.trials
    return ProxyScreen(search.experiment, search.ledger, scored, scored, trials, concurrent)


@pytest.fixture
def seeds(loaded, tmp_path):
    """A search over so many seeds."""

    def of(trials, changes=None, folder="run", **top):
        space = {"student.seed": {"choice": list(range(trials))}}
        return Searched(
            loaded({"run.trials": trials, **(changes or {})}, search=space, **top),
            tmp_path / folder,
        )

    return of


def drained(search, screen, real=lambda _: 0.5):
    """Every proposal that passes, each finished before the next is asked for."""
    numbers = []
    while (proposal := screen.next()) is not None:
        numbers.append(proposal.number)
        search.ledger.record_start(proposal)
        seed = proposal.values["student.seed"]
        search.ledger.record_finish(proposal.number, {"val_accuracy": real(seed)})
    assert screen.is_exhausted
    return numbers


@pytest.mark.parametrize(
    ("keep", "concurrent", "trials", "rounds"),
    [
        (0.25, 1, 8, [(4, 1), (4, 1)]),
        (0.25, 3, 12, [(12, 3)]),  # 3 / 0.25
        (0.3, 2, 7, [(7, 3)]),  # ceil(2 / 0.3) = 7, ceil(2.1) = 3
        (0.5, 1, 6, [(4, 2), (2, 1)]),  # four, and the two that are left
    ],
)
def test_a_share_of_every_round_is_kept(seeds, keep, concurrent, trials, rounds):
    search = seeds(trials, {"run.screen.keep": keep})
    drained(search, screen_of(search, Scored(lambda seed: (7 * seed) % trials / 100), concurrent))
    found = {}
    for trial in search.trials:
        found.setdefault(trial.screen.of, []).append(trial)
    said = [t.screen.said == "kept" for t in search.trials]
    assert sum(said) == sum(kept for _, kept in rounds)
    begin = 0
    for size, kept in rounds:
        some = search.trials[begin : begin + size]
        begin += size
        assert sorted(t.screen.rank for t in some) == list(range(1, size + 1))
        assert {t.screen.rank for t in some if t.state == "finished"} == set(range(1, kept + 1))
        ranked = sorted(some, key=lambda t: -t.figures["screen_val_accuracy"])
        assert [t.screen.rank for t in ranked] == list(range(1, size + 1))


def test_equals_pass_in_their_order_and_failures_last(seeds):
    search = seeds(4, {"run.screen.keep": 0.5})
    scored = Scored(lambda _: 0.7, broken={0})
    assert drained(search, screen_of(search, scored)) == [1, 2]
    assert search.trials[0].reason == (
        "screened out: failed on distilled data (Diverged: too far), rank 4 of 4"
    )
    assert "screen_val_accuracy" not in search.trials[0].figures


def test_what_is_to_be_small_is_ranked_from_below(seeds):
    search = seeds(4, goal={"minimize": "student.val_nll"})
    scored = Scored(lambda _: 0.0)
    scored.record = lambda key: Figures(
        {"val_nll": [3.0, 2.0, 0.5, 1.0][scored.placed[key].operation.seed]}
    )
    assert screen_of(search, scored).next().number == 2


def test_where_nothing_could_be_distilled_nobody_is_screened(seeds):
    search = seeds(4)
    assert drained(search, screen_of(search, Scored(lambda _: 0.0, {"few"}))) == [0, 1, 2, 3]
    assert {str(t.screen) for t in search.trials} == {"not screened: few: Diverged: too far"}


def test_who_cannot_be_laid_out_on_distilled_data_goes_on_unscreened(loaded, tmp_path, monkeypatch):
    """No searched value of today brings that about; a kind of stage of tomorrow may."""
    low, high = 0.01, 0.05

    def laid_out(experiment, values):
        if values[LR] == high:
            raise ConfigError("the shape of few's images is another")
        return screen_student(experiment, values)

    monkeypatch.setattr("stillhouse.search.tuning.proxy_screen.screen_student", laid_out)
    space = {LR: {"choice": [low, high]}}
    search = Searched(loaded({"run.trials": 2}, search=space), tmp_path / "run").run()
    whole, larger = search.trials
    assert (whole.screen.said, larger.screen.said) == ("kept", "unscreened")
    assert "the shape of few's images" in larger.screen.why
    assert {trial.state for trial in search.trials} == {"finished"}
    assert screen_quality(search.trials, "val_accuracy").pairs == (
        (whole.figures["screen_val_accuracy"], whole.figures["val_accuracy"]),
    )


@pytest.mark.parametrize(("check", "stretch"), [(0.1, 10), (0.25, 4), (0.6, 2)])
def test_some_of_the_others_go_on_to_check_the_screen(seeds, check, stretch):
    """About so many, by chance, and never long without one."""
    search = seeds(80, {"run.screen.check": check})
    rising = lambda seed: seed / 100  # noqa: E731
    passed = drained(search, screen_of(search, Scored(rising), concurrent=2), rising)
    others = [trial for trial in search.trials if trial.screen.said != "kept"]
    others.sort(key=lambda trial: (trial.number // 8, trial.screen.rank))  # as they were decided
    chosen = [trial.screen.said == "check" for trial in others]
    assert len(others) == 60
    assert sum(chosen) == pytest.approx(60 * check, abs=60 * check / 4)
    assert all(any(chosen[i : i + 2 * stretch]) for i in range(60 - 2 * stretch))
    assert len(passed) == 20 + sum(chosen)
    assert len({t.screen.rank for t, check in zip(others, chosen, strict=True) if check}) > 2


def test_the_screen_waits_for_every_student_of_a_round(seeds):
    search, late = seeds(4), {3}
    scored = Scored(lambda seed: seed / 100, settled=lambda seed: seed not in late)
    screen = screen_of(search, scored)
    assert screen.next() is None
    assert not screen.is_exhausted
    assert screen.undecided().number == 3
    late.clear()
    assert screen.next().number == 3
    assert screen.undecided() is None
    assert screen.next() is None
    assert screen.is_exhausted


def test_tune_gets_a_trial_that_only_waits_while_all_else_is_screened(seeds):
    """With nothing to run Tune stands still, and its idle actors keep every slot."""
    search, late = seeds(8), set(range(8))
    scored = Scored(lambda seed: seed / 100, settled=lambda seed: seed not in late)
    scored.num_in_flight = 0
    sampler = GatedSearcher(search.ledger, scored, screen_of(search, scored), 1)
    done = {"parameters": 1.0, "val_accuracy": 0.5}
    assert sampler.suggest("a") is None  # no actor is there yet
    late -= set(range(4))
    assert sampler.suggest("b")["values"] == {"student.seed": 3}
    assert sampler.suggest("c") is None  # one runs
    sampler.on_trial_complete("b", done)
    waits = sampler.suggest("d")
    assert (waits["idle"], waits["values"]) == (True, {"student.seed": 4})
    assert sampler.suggest("e") is None
    sampler.on_trial_complete("d", {})
    assert sampler.suggest("f")["idle"]
    late.clear()
    assert "idle" not in sampler.suggest("g")
    sampler.on_trial_complete("g", done)
    assert sampler.suggest("h") == GatedSearcher.FINISHED
    assert sampler.is_exhausted
    assert [trial.state for trial in search.trials].count("finished") == 2


# How far it is trusted


@pytest.mark.parametrize(("pairs", "trusted"), [(MIN_PAIRS - 1, True), (MIN_PAIRS, False)])
def test_it_is_judged_by_eight_trials_or_more(seeds, pairs, trusted):
    search = seeds(pairs + 1, {"run.screen.keep": 0.99})
    real = lambda seed: 1 - seed / 100  # noqa: E731
    drained(search, screen_of(search, Scored(lambda seed: seed / 100), 1), real)
    found = screen_quality(search.trials[:pairs], "val_accuracy")
    assert found.spearman == pytest.approx(-1.0)
    assert bool(found.distrust_reason(0.3)) != trusted
    assert (search.trials[-1].screen.said == "kept") == trusted


def test_each_pair_counts_for_as_many_as_it_stands_for():
    """Spearman's correlation of a sample in which each is there so many times."""
    dice = random.Random(0)
    pairs = [(dice.randrange(6) / 10, dice.random()) for _ in range(12)]
    weights = [dice.randrange(1, 5) for _ in pairs]
    sample = [pair for pair, weight in zip(pairs, weights, strict=True) for _ in range(weight)]
    found = weighted_spearman(pairs, weights)
    assert found == pytest.approx(spearmanr(*zip(*sample, strict=True)).statistic)
    alike = spearmanr(*zip(*pairs, strict=True)).statistic
    assert weighted_spearman(pairs, [2.5] * 12) == pytest.approx(alike)
    assert abs(found - alike) > 0.01
    assert math.isnan(weighted_spearman(pairs[:2], weights[:2]))
    assert math.isnan(weighted_spearman([(0.1, 0.3), (0.1, 0.4), (0.1, 0.5)], [1, 1, 2]))


def test_finding_the_best_is_enough_however_it_ranks_them(seeds):
    """Among the kept alone, all good, the screen says the opposite of what is true."""
    search = seeds(40, {"run.screen.check": 0.2})
    real = lambda seed: 0.99 - seed / 1e4 if seed >= 30 else seed / 100  # noqa: E731
    drained(search, screen_of(search, Scored(lambda seed: seed / 100), concurrent=10), real)
    found = screen_quality(search.trials, "val_accuracy")
    kept = [(t.figures["screen_val_accuracy"], t.figures["val_accuracy"]) for t in search.real()]
    kept = [pair for pair in kept if pair[1] > 0.9]
    assert len(kept) == 10
    assert spearmanr(*zip(*kept, strict=True)).statistic == pytest.approx(-1.0)
    assert found.num_checked >= MIN_CHECKED
    assert found.spearman > 0.8
    assert found.distrust_reason(0.3) == ""


def test_the_kept_alone_are_no_reason_to_distrust_it(seeds):
    search = seeds(24, {"run.screen.keep": 0.5})
    drained(search, screen_of(search, Scored(lambda s: s / 100)), lambda s: 0.9 - s / 100)
    found = screen_quality(search.trials, "val_accuracy")
    assert found.spearman == pytest.approx(-1.0)
    assert (found.disabled_reason, found.distrust_reason(0.3)) == ("", "")
    assert found.correlation_text == "Spearman -1.00 over 12 trials, 0 of them not kept"


def test_one_that_leaves_out_the_best_is_switched_off(seeds):
    search = seeds(64, {"run.screen.check": 0.2})
    drained(search, screen_of(search, Scored(lambda s: s / 100)), lambda s: 0.9 - s / 100)
    found = screen_quality(search.trials, "val_accuracy")
    assert found.verdict_counts["off"] > 0
    assert found.disabled_reason.endswith("of them not kept is below run.screen.trust: 0.3")


def test_one_that_ranks_well_stays_in_use(seeds):
    search = seeds(24, {"run.screen.keep": 0.5})
    drained(search, screen_of(search, Scored(lambda seed: seed / 100)), lambda seed: seed / 50)
    found = screen_quality(search.trials, "val_accuracy")
    assert (found.disabled_reason, len(found.pairs)) == ("", 12)
    assert found.spearman == pytest.approx(1.0)


def test_one_that_ranks_nothing_is_not_trusted(seeds):
    """All equal on distilled data: there is no correlation, which is not a good one."""
    search = seeds(14, {"run.screen.keep": 0.99, "run.trials": 12})
    drained(search, screen_of(search, Scored(lambda _: 0.1)), lambda seed: seed / 50)
    assert [t.screen.said for t in search.trials] == ["kept"] * 8 + ["off"] * 4
    assert math.isnan(screen_quality(search.trials[:8], "val_accuracy").spearman)
    assert search.trials[-1].screen.why.startswith("no rank correlation over 8 trials")
    assert len([event for event in search.events if isinstance(event, ScreenDisabled)]) == 1
    # A resume goes on without it, though the trials since would speak for it, and says so once.
    again = seeds(14, {"run.screen.keep": 0.99})
    drained(again, screen_of(again, Scored(lambda seed: seed / 50)))
    assert [t.screen.said for t in again.trials[12:]] == ["off"] * 2
    assert not any(isinstance(event, ScreenDisabled) for event in again.events)


# A resume


def test_a_resume_keeps_what_was_decided_and_screens_the_rest(seeds):
    reached = lambda seed: seed / 100  # noqa: E731
    whole = seeds(12, folder="whole")
    drained(whole, screen_of(whole, Scored(reached), concurrent=2))
    search = seeds(12, {"run.screen.check": 0.0})
    screen = screen_of(search, Scored(reached), concurrent=2)  # rounds of eight, two pass
    taken = [screen.next(), screen.next()]
    search.ledger.record_start(taken[0])
    search.ledger.record_finish(taken[0].number, {"val_accuracy": 0.5})
    late = Scored(reached, settled=lambda _: False)
    screen._submitter = screen._library = late
    assert screen.next() is None  # the four that are left are asked for, and not decided
    assert [t.state for t in search.trials].count("running") == 5

    again = seeds(12)  # the same folder
    scored = Scored(reached)
    resumed = screen_of(again, scored, concurrent=2)
    passed = drained(again, resumed)
    assert taken[1].number in passed
    assert taken[0].number not in passed
    seen = {
        stage.operation.seed for stage in scored.placed.values() if stage.operation.kind == "train"
    }
    assert seen == {8, 9, 10, 11}
    assert [t.screen for t in again.trials] == [t.screen for t in whole.trials]
    assert [t.state for t in again.trials] == [t.state for t in whole.trials]


def test_a_stop_between_word_and_deed_is_made_good(seeds):
    search = seeds(4)
    proposal = search.study.ask()
    out = ScreenDecision("out", {"screen_val_accuracy": 0.1}, 4, 4, "", ("ab",))
    search.study.record_screen(proposal.number, out)
    again = seeds(4)
    drained(again, screen_of(again, Scored(lambda seed: seed / 100)))
    first = again.trials[0]
    assert (first.state, first.screen) == ("pruned", out)
    assert first.reason == "screened out: 0.1 on distilled data, rank 4 of 4"


# The student it is screened by


TEACHER = {
    "network": "cnn2",
    "objective": {"cross_entropy": {}},
    "training": {"epochs": 1, "batch_size": 32, "lr": 0.05},
}


def taught(loaded, objective, search=None, **student):
    stages = copy.deepcopy(TOLD["stages"])
    stages["student"] |= {"teachers": ["teacher"], "objective": objective, **student}
    stages = {"teacher": copy.deepcopy(TEACHER), **stages}
    return loaded(stages=stages, search=search or TOLD["search"])


def test_it_is_the_students_own_but_for_the_data(loaded):
    experiment = loaded()
    student = screen_student(experiment, {LR: 0.1})
    real = experiment.stage_graph({LR: 0.1}).student
    assert student.label == "student (screen)"
    assert [parent.label for parent in student.parents] == ["few"]
    assert student.operation.network == real.operation.network
    assert student.operation.seed == real.operation.seed
    own = real.operation.training.model_copy(update={"epochs": 20})
    assert student.operation.training == own
    unsaid = screen_student(loaded({"run.screen.epochs": None}), {LR: 0.1})
    assert unsaid.operation.training == real.operation.training


def test_a_network_with_batch_norm_can_be_screened(loaded):
    space = {"student.network": {"choice": [SMALL, "cnn2"]}}
    experiment = loaded(search=space)
    student = screen_student(experiment, {"student.network": "cnn2"})
    assert student.operation.network.label == "cnn2"


def test_a_settled_teacher_teaches_on_distilled_data_too(loaded):
    both = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}}
    student = screen_student(taught(loaded, both), {LR: 0.1})
    assert [parent.label for parent in student.parents] == ["few", "teacher"]
    assert set(student.operation.objective.terms) == set(both)


def test_a_teacher_that_is_searched_itself_is_laid_aside(loaded):
    both = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}}
    space = {**TOLD["search"], "teacher.training.lr": {"choice": [0.1, 0.05]}}
    values = {LR: 0.1, "teacher.training.lr": 0.1}
    student = screen_student(taught(loaded, both, space), values)
    assert [parent.label for parent in student.parents] == ["few"]
    assert {n: t.weight for n, t in student.operation.objective.terms.items()} == {
        "cross_entropy": 1.0
    }


def test_methods_that_need_hard_labels_are_laid_aside(loaded):
    student = screen_student(taught(loaded, {"cross_entropy": {}, "decoupled": {}}), {LR: 0.1})
    assert set(student.operation.objective.terms) == {"cross_entropy"}
    assert [parent.label for parent in student.parents] == ["few"]
    alone = screen_student(taught(loaded, {"decoupled": {}}), {LR: 0.1})
    assert set(alone.operation.objective.terms) == {"cross_entropy"}


# What is told before anything runs


@pytest.mark.parametrize(
    ("changes", "top", "message"),
    [
        ({"run.screen.stage": "fewer"}, {}, "run.screen.stage: .*fewer"),
        ({"run.screen.stage": "student"}, {}, "run.screen.stage: student is a train; name one"),
        ({"run.screen.keep": 1.0}, {}, "run.screen.keep"),
        ({"run.screen.keep": 0.0}, {}, "run.screen.keep"),
        ({"run.screen.check": 1.0}, {}, "run.screen.check"),
        ({"run.screen.trust": 1.5}, {}, "run.screen.trust"),
        ({"run.screen.often": 1}, {}, "run.screen.*often"),
        ({}, {"search": {}}, "run.screen: needs a search"),
        (
            {},
            {"goal": {"maximize": "student.val_accuracy", "minimize": "student.flops"}},
            "run.screen: needs a single goal",
        ),
        (
            {},
            {"goal": {"minimize": "student.flops"}},
            "run.screen: ranks students by .* not by flops",
        ),
        (
            {},
            {"search": {"few.examples": {"choice": [1, 2]}}},
            "run.screen.stage: is built once .* few.examples is searched",
        ),
        (
            {},
            {"search": {"data.augment.flip": {"choice": [True, False]}}},
            "run.screen.stage: is built once .* data.augment.flip is searched",
        ),
        ({"student.images": "few"}, {}, "run.screen: saves nothing"),
        ({"student.data": {"resize": 16}}, {}, "run.screen: its student: .*shape of few's images"),
    ],
)
def test_mistakes_are_told_before_anything_runs(loaded, changes, top, message):
    with pytest.raises(ConfigError, match=message):
        loaded(changes, **top)


def test_the_file_says_it_again(loaded):
    experiment = loaded()
    told = experiment.plain()["run"]["screen"]
    assert told == {"stage": "few", "check": 0.0, "epochs": 20}
    assert experiment.run.screen == ScreenSettings.parse(told)
    assert (
        "screen"
        not in loaded({"run.screen.stage": "few"}).fixed_configuration({LR: 0.1}, "best")["run"]
    )


def test_a_plan_counts_the_looks_and_what_they_spare(loaded, monkeypatch):
    monkeypatch.setattr(
        "stillhouse.search.driver.plan._fastest_pass", lambda *_: 0.032
    )  # 1 ms an image
    planned = plan_search(loaded({"run.screen.check": 0.2}), slots=1)
    assert [stage.label for stage in planned.stages] == ["few"]
    examples = facts(loaded().data).sizes["train"]
    looks = 8 * 20 * 40
    trained = (0.25 + 0.75 * 0.2) * 8 * 4 * examples
    wanted = planned.stages[0].seconds + 0.001 * (looks + trained)
    assert planned.seconds == pytest.approx(wanted)


# What people see


def outcome_of(search):
    return Outcome(
        "screened-1",
        (Goal("val_accuracy", True),),
        tuple(search.trials),
        (),
        {},
        {},
        frozenset(),
        frozenset(),
        {},
        1.0,
    )


@pytest.fixture
def ranked(seeds):
    """Half of 24 kept, the real figure in the order of the screen's but for the last pair."""
    search = seeds(24, {"run.screen.keep": 0.5})
    drained(search, screen_of(search, Scored(lambda seed: seed / 100)), lambda s: 0.5 + s / 100)
    return search


def test_table_page_and_outcome_tell_of_the_screen(ranked, tmp_path):
    outcome = outcome_of(ranked)
    told = screen_sentence(outcome)
    assert told.startswith(
        "Screen on distilled data: 12 screened out, 12 kept as the best of their round; with the "
        "real figures: Spearman 1.00 over 12 trials"
    )
    files = {file.name for file in write_report(outcome, TOLD, tmp_path)}
    assert {"screen.svg", "screen.png"} <= files
    assert told in (tmp_path / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["screen"] for row in rows] == [trial.screen.said for trial in outcome.trials]
    assert float(rows[3]["screen_val_accuracy"]) == 0.03
    said = {"spearman": pytest.approx(1.0), "pairs": 12, "checked": 0, "off": ""}
    said["said"] = {"kept": 12, "out": 12}
    assert json.loads(json.dumps(to_plain(outcome)["screen"])) == said


def test_mlflow_is_told_how_the_screen_ranks(ranked):
    diary = MlflowMapper("screened", {})
    told = json.dumps(diary.summary(outcome_of(ranked), [], {}, None))
    for name in ("screen.spearman", "screen.pairs", "screen.kept", "screen.out"):
        assert f'"{name}"' in told
    off = json.dumps(diary.entries(ScreenDisabled("it ranks nothing")))
    assert '"stillhouse.screen"' in off
    assert "switched off: it ranks nothing" in off


def test_without_a_screen_nothing_is_said_of_one(tmp_path):
    outcome = Outcome(
        "plain-1",
        (Goal("val_accuracy", True),),
        (TrialResult(0, "finished", {}, {}, {"val_accuracy": 0.5}),),
        (),
        {},
        {},
        frozenset(),
        frozenset(),
        {},
        1.0,
    )
    assert screen_sentence(outcome) == ""
    assert "screen" not in to_plain(outcome)
    assert "screen" not in json.dumps(MlflowMapper("plain", {}).summary(outcome, [], {}, None))
    write_report(outcome, {}, tmp_path)
    assert "screen" not in (tmp_path / "trials.csv").read_text(encoding="utf-8")


# On Ray


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    "run",
    [{}, {"run.concurrent": 2, "run.screen.keep": 0.5}, {"run.resources.cpu": 2.0}],
    ids=["a free slot", "two at once", "a single slot"],
)
def test_on_ray_the_same_pass(loaded, tmp_path, monkeypatch, searched, run):
    """Two CPUs: two slots, or one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_cpus=2, num_gpus=0))
    run = {"run.concurrent": 1, **run}  # rounds of four, as in this process
    inline = searched(run)
    experiment = loaded(run, library=str(tmp_path / "other"))
    heard = []
    launched = launch(experiment, observers=[heard.append])
    assert launched.state == "finished"
    trials = launched.outcome.trials
    assert [t.state for t in trials] == [t.state for t in inline.trials]
    assert [t.screen.said for t in trials] == [t.screen.said for t in inline.trials]
    assert set(GOOD) <= {t.values[LR] for t in trials if t.state == "finished"}
    made = [e.label for e in heard if isinstance(e, StageChanged) and e.state == "made"]
    assert sorted(made) == ["few"] + ["student (screen)"] * len(LRS)
    started = [e.number for e in heard if isinstance(e, TrialStarted)]
    assert sorted(started) == list(range(len(LRS)))
    again = read_outcome(launched.folder)
    assert again.trials == trials
    assert {key for t in trials for key in t.screen.keys} <= set(again.records)
