"""Which configuration wins, which student stands for it, and over which seeds that is settled."""

import json
import statistics

import pytest
import yaml
from mlflow import MlflowClient

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.methods.core.training.train import Training
from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.driver.launch import launch
from stillhouse.search.driver.reuse import repeat_winner
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.report.core.headline import comparison_sentences, difference_text
from stillhouse.search.results.outcome import (
    Outcome,
    SeedRuns,
    TrialResult,
    to_plain,
    winner,
    winners_by_group,
)
from stillhouse.search.runs.result import read_outcome
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.limits import Limit

SEARCHED = {
    "name": "fresh",
    "data": {"source": "digits", "validation": 0.25, "limit": 100},
    "stages": {
        "student": {
            "network": {"cnn2": {"width": 0.25}},
            "objective": {"cross_entropy": {}},
            "training": {"epochs": 1, "batch_size": 32, "lr": 0.05},
        },
    },
    "search": {"student.training.lr": {"choice": [0.02, 0.1]}},
    "goal": {"maximize": "student.val_accuracy"},
    "run": {"trials": 2, "sampler": "grid", "repeats": {"top": 2, "seeds": 2}, "baselines": False},
}


def record(key=0, **figures):
    return Record(
        key=f"{key:064x}",
        name="student",
        kind="train",
        identity={},
        payload=Payload(name="a.safetensors", sha256="0" * 64, size=1),
        figures=figures,
        facts={},
        seconds=1.0,
        made_at="2026-01-01T00:00:00+00:00",
    )


def repeated(role, group="", first=1, **figures):
    """A configuration over seeds; ``figures`` hold a value a seed each."""
    names, columns = figures.keys(), zip(*figures.values(), strict=True)
    records = tuple(
        record(place, **dict(zip(names, column, strict=True)))
        for place, column in enumerate(columns, first)
    )
    return SeedRuns(role, tuple(range(first, first + len(records))), records, group)


def outcome(*repeats, goal=None, limits=None):
    return Outcome(
        name="a",
        goals=(goal or Goal("val_accuracy", True),),
        trials=tuple(TrialResult(number, "finished", {}, {}) for number in range(4)),
        seed_runs=repeats,
        records={},
        labels={},
        made_keys=frozenset(),
        reused_keys=frozenset(),
        importances={},
        seconds=0.0,
        limits=limits or {},
    )


def test_the_student_that_is_shown_is_the_nearest_to_the_mean_and_not_the_luckiest():
    one = repeated("trial 1", val_accuracy=(0.90, 0.96, 0.925), val_nll=(0.3, 0.1, 0.2))
    seed, chosen = outcome(one).representative(one)
    assert (seed, chosen.figures["val_accuracy"]) == (3, 0.925)


def test_among_equally_near_seeds_the_lowest_is_shown():
    one = repeated("trial 1", first=5, val_accuracy=(0.25, 0.75))
    assert outcome(one).representative(one)[0] == 5


def test_a_seed_that_breaks_a_limit_itself_is_not_shown_where_another_keeps_it():
    one = repeated("trial 1", val_accuracy=(0.8, 0.9, 1.0), val_nll=(0.1, 0.5, 0.1))
    assert outcome(one).representative(one)[0] == 2
    assert outcome(one, limits={"val_nll": Limit(max=0.3)}).representative(one)[0] == 1


@pytest.mark.parametrize("maximize", [True, False])
def test_who_breaks_a_limit_in_the_mean_does_not_win(maximize):
    sign = 1.0 if maximize else -1.0
    better = repeated("trial 1", val_nll=(sign * 3, sign * 4), val_accuracy=(0.1, 0.3))
    keeps = repeated("trial 2", val_nll=(sign * 1, sign * 2), val_accuracy=(0.1, 0.4))
    goal, limits = Goal("val_nll", maximize), {"val_accuracy": Limit(min=0.21)}
    assert winner(outcome(better, keeps, goal=goal)) is better
    told = outcome(better, keeps, goal=goal, limits=limits)
    assert winner(told) is keeps
    assert winners_by_group(told) == {"": keeps}
    sentences = " ".join(comparison_sentences(told))
    assert "Set aside: trial 1" in sentences
    assert (
        "validation accuracy over the seeds, 20.00 %, breaks the limit: at least 21.00 %"
        in sentences
    )
    assert to_plain(told)["winner"]["breaches"] == {}


def test_where_nobody_keeps_the_limits_the_best_wins_and_its_breach_is_told():
    one = repeated("trial 1", val_accuracy=(0.5, 0.5), latency_ms=(2.0, 2.0))
    other = repeated("trial 2", val_accuracy=(0.4, 0.4), latency_ms=(1.5, 1.5))
    told = outcome(one, other, limits={"latency_ms": Limit(max=1.0)})
    assert winner(told) is one
    assert any(
        "latency over the seeds, 2 ms, breaks the limit" in s for s in comparison_sentences(told)
    )
    assert to_plain(told)["winner"]["breaches"] == {"latency_ms": 2.0}


def test_each_group_is_chosen_within_the_limits():
    limits = {"val_nll": Limit(max=1.0)}
    groups = {
        name: [
            repeated(f"trial {first}", name, val_accuracy=(0.9,), val_nll=(2.0,)),
            repeated(f"trial {first + 1}", name, val_accuracy=(0.8,), val_nll=(0.5,)),
        ]
        for first, name in ((0, "size 10"), (2, "size 20"))
    }
    told = outcome(*groups["size 10"], *groups["size 20"], limits=limits)
    assert {name: r.role for name, r in winners_by_group(told).items()} == {
        "size 10": "trial 1",
        "size 20": "trial 3",
    }


@pytest.mark.parametrize("role", ["plain", "assembled"])
def test_a_row_says_how_it_stands_to_the_best(role):
    best = repeated("trial 1", val_accuracy=(0.90, 0.90))
    row = repeated(role, val_accuracy=(0.92, 0.92))
    assert difference_text(row, best, "val_accuracy").startswith("2.00 points higher")
    assert difference_text(best, row, "val_accuracy").startswith("2.00 points lower")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search that was settled over two seeds, in a folder of its own."""
    folder = tmp_path_factory.mktemp("settled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield launch(load_experiment(SEARCHED), inline=True)


@pytest.fixture
def place(run, monkeypatch):
    monkeypatch.chdir(run.folder.path.parent.parent)
    return run.folder


def students(launched):
    return {key for each in launched.outcome.seed_runs for key in [r.key for r in each.records]}


def test_every_place_names_the_same_student(run, place):
    best = winner(run.outcome)
    seed, student = run.outcome.representative(best)
    text = (place.path / "best.yaml").read_text(encoding="utf-8")
    assert f"\n# Student {student.key[:12]} (seed {seed}, the nearest to the mean)" in text
    told = json.loads((place.path / "outcome.json").read_text(encoding="utf-8"))["winner"]
    assert (told["key"], told["seed"], told["role"]) == (student.key, seed, best.role)
    client = MlflowClient(run.tracking)
    (mlflow,) = [
        found
        for experiment in client.search_experiments()
        for found in client.search_runs([experiment.experiment_id])
        if found.data.tags.get("stillhouse.kind") == "search"
    ]
    assert mlflow.data.tags["stillhouse.student"] == student.key
    values = best.values("val_accuracy")
    metrics = mlflow.data.metrics
    assert metrics["best.val_accuracy"] == pytest.approx(statistics.fmean(values))
    assert metrics["best.val_accuracy.spread"] == pytest.approx(statistics.stdev(values))
    assert metrics["best.seeds"] == 2


def test_the_best_file_has_the_figures_of_its_header(run, place):
    """Launched, it repeats the very seeds that its header speaks of, and makes nothing."""
    launched = launch(load_experiment(place.path / "best.yaml"), inline=True)
    before, after = winner(run.outcome), winner(launched.outcome)
    assert after.seeds == before.seeds == (1, 2)
    assert after.values("val_accuracy") == before.values("val_accuracy")
    assert not launched.outcome.made_keys


@pytest.mark.usefixtures("place")
def test_reuse_takes_seeds_that_nobody_has_used(run):
    first = launch(repeat_winner("fresh", {}, 2, None), inline=True)
    assert winner(first.outcome).seeds == (3, 4)
    assert len(first.outcome.made_keys) == 2
    assert not students(first) & (
        students(run) | {t.stage_keys["student"] for t in run.outcome.trials}
    )
    second = repeat_winner(first.folder.name, {}, 3, None)
    assert second.run.repeats.first_seed == 5


def test_an_earlier_best_file_began_at_seed_1(place):
    """Files of before ``first_seed`` was written were settled over the seeds from 1 on."""
    file = place.path / "best.yaml"
    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    del told["run"]["repeats"]["first_seed"]
    older = place.path.parent / "older-1"
    older.mkdir()
    (older / "best.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    (older / "experiment.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    assert repeat_winner("older-1", {}, 2, None).run.repeats.first_seed == 3


def test_what_is_read_again_has_the_same_winner(run, place):
    assert to_plain(read_outcome(place))["winner"] == to_plain(run.outcome)["winner"]


def test_schedulers_compare_what_would_be_kept():
    curve = [
        {"epoch": 1.0, "val_accuracy": 0.5, "best_epoch": 1.0},
        {"epoch": 2.0, "val_accuracy": 0.7, "best_epoch": 2.0},
        {"epoch": 3.0, "val_accuracy": 0.1, "best_epoch": 2.0},
    ]
    objective = Objective.parse({"cross_entropy": {}})
    for keep, kept in (("last", 2), ("best", 1)):
        work = TrainNetwork(objective=objective, training=Training(keep=keep))
        assert work.metrics_so_far(curve) is curve[kept]
        assert work.metrics_so_far(curve[:1]) is curve[0]


@pytest.mark.parametrize("entry", ["train", "generations", "peers", "prune"])
def test_the_figures_of_the_best_epoch_are_those_of_its_network(entry, tmp_path, monkeypatch):
    """With ``keep: best``, of every entry that trains: a rate that explodes ruins the last."""
    monkeypatch.chdir(tmp_path)
    steep = {"epochs": 5, "batch_size": 64, "lr": 0.4, "momentum": 0.98, "schedule": "constant"}
    training = {**steep, "keep": "best"}
    base = {"objective": {"cross_entropy": {}}, "training": training}
    network = {"cnn2": {"width": 0.25}}
    taught = {"cross_entropy": {}, "soft_targets": {}}
    student = {
        "train": {"network": network, **base},
        "generations": {"do": "generations", "network": network, "count": 2, **base}
        | {"objective": taught},
        "peers": {"do": "peers", "network": network, "peers": [network], **base}
        | {"objective": taught},
        "prune": {"do": "prune", "start": "before", "training": training},
    }[entry]
    before = {"before": {"network": "cnn2", **base}} if entry == "prune" else {}
    told = {**SEARCHED, "stages": {**before, "student": student}}
    told = {**told, "search": {}, "run": {"repeats": {"top": 1, "seeds": 1}, "baselines": False}}
    experiment = load_experiment(told)
    launched = launch(experiment, inline=True)
    (trial,) = launched.outcome.trials
    record = winner(launched.outcome).records[0]
    library, data = Library(experiment.library), open_data(experiment.stage_graph().student.data)
    real = evaluate(
        load_network(library.open_artifact(record.key)), data, "validation", device="cpu"
    )
    for figure in ("accuracy", "nll", "ece"):
        assert record.figures[f"val_{figure}"] == pytest.approx(real[figure], abs=1e-6)
        assert trial.figures[f"val_{figure}"] == record.figures[f"val_{figure}"]
    assert record.figures["val_accuracy"] == record.figures["best_val_accuracy"]
    kept = record.curve[int(record.figures["best_epoch"]) - 1]
    assert kept["train_loss"] == record.figures["train_loss"]
