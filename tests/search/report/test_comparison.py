"""The table of all that was settled: who it is, its spread, its pace, and how it stands."""

from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.page.comparison import comparison_table
from stillhouse.search.report.pictures.seeds import draw
from stillhouse.search.results.outcome import Outcome, SeedRuns, TrialResult

SEEDS = (1, 2, 3)


def record(role, seed, accuracy):
    return Record(
        key=f"{role}-{seed}",
        name="student",
        kind="train",
        identity={},
        parents=(),
        payload=Payload(name="a.safetensors", sha256="0" * 64, size=4),
        figures={"val_accuracy": accuracy, "parameters": 100.0},
        curve=tuple({"epoch": e, "seconds": s} for e, s in ((1.0, 9.0), (2.0, 2.5), (3.0, 2.5))),
        facts={},
        seconds=12.0,
        made_at="2026-01-01T00:00:00+00:00",
    )


def repeated(role, *accuracies):
    records = (record(role, *one) for one in zip(SEEDS, accuracies, strict=True))
    return SeedRuns(role, SEEDS, tuple(records))


def outcome(*repeats):
    objectives = [
        {"cross_entropy": {}, "attention": {"weight": 1000}},
        {"cross_entropy": {}, "hints": {}},
    ]
    trials = [
        TrialResult(n, "finished", {"student.objective": told}, {}, {"val_accuracy": 0.9})
        for n, told in enumerate(objectives)
    ]
    return Outcome(
        "tiny",
        (Goal("val_accuracy", True),),
        tuple(trials),
        repeats,
        {},
        {},
        *[frozenset()] * 2,
        {},
        1,
    )


def test_every_configuration_stands_beside_the_best_and_the_plain():
    told = comparison_table(
        outcome(
            repeated("trial 0", 0.80, 0.81, 0.82),
            repeated("trial 1", 0.90, 0.91, 0.92),
            repeated("plain", 0.900, 0.905, 0.910),
        ),
        {},
    )
    heads, (best, other, plain) = told.columns, told.rows
    assert list(heads[1:4]) == ["student.objective", "validation accuracy, %", "seeds"]
    assert best[:5] == ("trial 1", "cross_entropy, hints", "91.00 ± 1.00 %", 3, "2.50")
    assert best[5] == ""
    assert best[6].startswith("a tie within seed noise (0.50 points higher)")
    assert other[1] == "cross_entropy, attention (weight: 1000)"
    assert other[5].startswith("10.00 points lower (p = ")
    assert plain[:2] == ("plain: labels alone", "")
    assert plain[6] == ""


def test_without_company_there_is_nothing_to_compare():
    assert comparison_table(outcome(repeated("trial 1", 0.90, 0.91, 0.92)), {}) is None
    assert comparison_table(outcome(), {}) is None


def test_rows_of_the_picture_say_what_was_searched_where_that_is_one_thing():
    picture = draw(
        outcome(repeated("trial 0", 0.80, 0.81, 0.82), repeated("trial 1", 0.9, 0.91, 0.92))
    )
    assert picture is not None
    (axes,) = picture.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "best: trial 1: cross_entropy, hints",
        "trial 0: cross_entropy, attention",
    ]
