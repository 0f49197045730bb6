"""Factorials: the four students of a technique, their interaction, and what is said of it."""

import copy
import math
import statistics
from dataclasses import replace

import pytest

from stillhouse import launch
from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.evaluation.factorial import (
    classify_interaction,
    confidence_interval,
    factorial_cells,
    interactions,
)
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.report.core.mpl_style import use_style
from stillhouse.search.report.pictures.factorial import draw, effect_table
from stillhouse.search.results.outcome import Outcome, SeedRuns
from stillhouse.spaces.config.problems import ConfigError

TECHNIQUES = {
    "smoothing": {"student.objective.cross_entropy.label_smoothing": 0.1},
    "shifts": {"student.data.augment.crop": 1, "student.training.epochs": 3},
}


@pytest.fixture
def told(tiny):
    data = copy.deepcopy(tiny)
    del data["search"]
    data["factorial"] = {"techniques": copy.deepcopy(TECHNIQUES), "seeds": 3}
    data["run"] = {}
    return data


def test_an_interval_is_students_by_the_book():
    """Three values, two degrees of freedom: t = 4.302653 (table of the 97.5 % quantile)."""
    values = [0.01, 0.02, 0.06]
    mean, low, high = confidence_interval(values, 0.95)
    half = 4.302653 * statistics.stdev(values) / math.sqrt(3)
    assert mean == pytest.approx(0.03)
    assert (low, high) == pytest.approx((0.03 - half, 0.03 + half), rel=1e-6)
    assert confidence_interval([0.5, 0.5], 0.99) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.004, 0.004, "orthogonal"),
        (0.001, 0.004, "orthogonal"),
        (0.001, 0.006, "synergistic"),
        (-0.006, -0.001, "redundant"),
        (-0.006, 0.001, "undecided"),
        (-0.02, 0.02, "undecided"),
    ],
)
def test_verdicts(low, high, verdict):
    assert classify_interaction(low, high, margin=0.005) == verdict


def record(role, seed, accuracy):
    return Record(
        key=f"{role}{seed}",
        name=role,
        kind="train",
        identity={},
        payload=Payload(name="x", sha256="x", size=1),
        figures={"val_accuracy": accuracy, "parameters": 10.0},
        facts={},
        seconds=1.0,
        made_at="2026-01-01T00:00:00+00:00",
    )


ACCURACIES = {
    "plain": (0.80, 0.82, 0.81),
    "trial 0": (0.84, 0.85, 0.86),
    "smoothing": (0.81, 0.83, 0.82),
    "smoothing + teacher": (0.83, 0.85, 0.84),
    "shifts": (0.80, 0.82, 0.81),
    "shifts + teacher": (0.84, 0.85, 0.86),
}


@pytest.fixture
def outcome():
    repeats = tuple(
        SeedRuns(role, (0, 1, 2), tuple(record(role, i, x) for i, x in enumerate(values)))
        for role, values in ACCURACIES.items()
    )
    asked = {"techniques": TECHNIQUES, "seeds": 3}
    goals = (Goal("val_accuracy", True),)
    return Outcome(
        "f-1",
        goals,
        (),
        repeats,
        {},
        {},
        frozenset(),
        frozenset(),
        {},
        1.0,
        factorial=asked,
        variances={"plain": 0.25},
    )


def test_an_interaction_is_what_both_gain_beyond_the_sum_seed_by_seed(outcome):
    smoothing, shifts = interactions(outcome)
    # acc(X + KD) - acc(X) - acc(KD) + acc(none)
    assert smoothing.values == pytest.approx((-0.02, -0.01, -0.03))
    assert smoothing.technique_gains == pytest.approx((0.01, 0.01, 0.01))
    assert smoothing.distillation_gains == pytest.approx((0.04, 0.03, 0.05))
    assert smoothing.combined_gains == pytest.approx((0.03, 0.03, 0.03))
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert (smoothing.low, smoothing.high) == pytest.approx((-0.02 - half, -0.02 + half))
    assert smoothing.verdict == "undecided"  # -4.5 to +0.5 points
    assert shifts.values == pytest.approx((0.0, 0.0, 0.0))
    assert shifts.verdict == "orthogonal"


def test_only_seeds_that_all_four_have_are_compared(outcome):
    lost = outcome.seed_runs[2]
    kept = SeedRuns(lost.role, (0, 2), (lost.records[0], lost.records[2]))
    repeats = (*outcome.seed_runs[:2], kept, *outcome.seed_runs[3:])
    found = {one.technique: one for one in interactions(with_repeats(outcome, repeats))}
    assert found["smoothing"].values == pytest.approx((-0.02, -0.03))
    repeats = (*outcome.seed_runs[:2], *outcome.seed_runs[3:])
    assert [one.technique for one in interactions(with_repeats(outcome, repeats))] == ["shifts"]


def with_repeats(outcome, repeats):

    return replace(outcome, seed_runs=repeats)


def test_a_figure_that_goes_down_counts_the_other_way(outcome):

    down = replace(outcome, goals=(Goal("val_accuracy", False),))
    assert interactions(down)[0].values == pytest.approx((0.02, 0.01, 0.03))


def test_the_page_says_it_in_words_and_numbers(outcome, tmp_path):
    text = str(effect_table(outcome))
    assert "-2.00 (-4.48 to +0.48)" in text
    assert "orthogonal" in text
    assert "0.2500" in text

    with use_style():
        picture = draw(outcome)
        assert picture is not None
        assert {file.suffix for file in picture.save(tmp_path)} == {".svg", ".png"}
    assert effect_table(with_repeats(outcome, ())) is None
    assert draw(with_repeats(outcome, ())) is None


# What is made


def test_every_technique_without_and_with_a_teacher_over_the_same_seeds(told):
    experiment = load_experiment(told)
    made = {each.role: each for each in factorial_cells(experiment)}
    assert set(made) == set(ACCURACIES)
    for each in made.values():
        assert list(each.graphs) == [0, 1, 2]
        assert [r.student.operation.seed for r in each.graphs.values()] == [0, 1, 2]
    keys = [r.student.key for each in made.values() for r in each.graphs.values()]
    assert len(set(keys)) == len(keys)
    alone = made["smoothing"].graphs[1].student
    assert alone.parents == ()
    assert list(alone.operation.objective.terms) == ["cross_entropy"]
    assert alone.operation.objective.terms["cross_entropy"].label_smoothing == 0.1
    assert alone.operation.objective.terms["cross_entropy"].weight == 1.0
    both = made["shifts + teacher"].graphs[1].student
    assert both.data.augment.crop == 1
    assert both.operation.training.epochs == 3
    taught = made["trial 0"].graphs[1].student
    assert [p.key for p in both.parents] == [p.key for p in taught.parents]
    assert taught.data.augment.crop == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search": {"student.seed": {"choice": [0, 1]}}},
            "factorial: cannot be combined with search",
        ),
        (
            {"factorial.techniques.smoothing": {"student.trainin.lr": 1}},
            "factorial.techniques.smoothing.student: unknown field 'trainin'",
        ),
        (
            {"factorial.techniques.smoothing": {"student": 0.1}},
            "factorial.techniques.smoothing.student: names no setting; needs a path such as",
        ),
        (
            {"factorial.techniques.smoothing": {"student.objective": 3}},
            "factorial.techniques.smoothing.student.objective: ",
        ),
        ({"factorial.techniques": {}}, "factorial.techniques: "),
        ({"factorial.techniques": {"plain": {}}}, "plain: is the name of a baseline"),
        ({"factorial.techniques": {"direct": {}}}, "direct: is the name of a baseline"),
        ({"factorial.techniques": {"a/b": {}}}, "needs letters, digits, - and _"),
        ({"factorial.seeds": 1}, "factorial.seeds: "),
        (
            {"student.teachers": [], "student.objective": {"cross_entropy": {}}},
            "factorial: compares with and without teachers, but 'student' has no teacher",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(told, changes, message):
    with pytest.raises(ConfigError) as error:
        load_experiment(told, changes)
    assert message in str(error.value)


def test_a_plan_counts_every_cell(told, monkeypatch):
    """Two techniques and none, without and with the teacher; one of them is the trial's own."""
    monkeypatch.setattr(
        "stillhouse.search.driver.plan._fastest_pass", lambda *_: 0.032
    )  # 1 ms an image
    told["stages"]["other"] = {**told["stages"]["teacher"], "seed": 7}
    told["factorial"]["techniques"]["smoothing"] = {"student.teachers": ["teacher", "other"]}
    three, six, nine = (
        plan_search(load_experiment(told, {"factorial.seeds": seeds})) for seeds in (3, 6, 9)
    )
    alone = {
        stage.label for stage in plan_search(load_experiment(told, {"factorial": None})).stages
    }
    assert {stage.label for stage in three.stages} == alone | {"other"}
    # More teachers than one are none where there shall be none: those students are the plain ones.
    assert [planned.repeats for planned in (three, six, nine)] == [5 * n - 1 for n in (3, 6, 9)]
    assert nine.seconds - six.seconds == pytest.approx(six.seconds - three.seconds)
    assert six.seconds > three.seconds > sum(stage.seconds for stage in three.stages) / 2


@pytest.mark.slow
def test_a_factorial_from_beginning_to_end(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    told["tracking"] = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = load_experiment(told)
    launched = launch(experiment, inline=True)
    outcome = launched.outcome
    assert {r.role for r in outcome.seed_runs} == set(ACCURACIES)
    assert len(interactions(outcome)) == 2
    assert set(outcome.variances) == set(ACCURACIES)
    assert (launched.folder.path / "factorial.png").exists()
    from stillhouse import read_outcome

    again = read_outcome(launched.folder)
    assert interactions(again) == interactions(outcome)
    assert again.variances == outcome.variances
    assert {f"variance ({role})" for role in ACCURACIES} <= set(outcome.labels.values())
    reused = launch(experiment, inline=True).outcome
    assert reused.variances == outcome.variances
    assert not reused.made_keys
