"""A search that starts from the winner on another data set, compared with a cold start.

Both search the same space with the same sampler on the target. The warm search begins with the
winner of a search on the source, and its neighbours (``run.start: file``). The measure is the
number of trials until the best value of the cold search is reached, over several seeds of the
sampler. A search that does not reach it counts as all its trials plus one.

    python benchmarks/warm_start.py [--root DATA] [--trials 24] [--seeds 3]

Without ``--root`` the source is the digits 0 to 4 and the target 5 to 9 (scikit-learn's); with it
MNIST and Fashion-MNIST, as Stillhouse finds them there (``DATA/mnist``, ``DATA``).

Exit status 1 if the warm searches need more trials than the cold ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from _outcome import arguments, outcome

from stillhouse.search.driver.launch import launch
from stillhouse.search.driver.launched import LaunchResult
from stillhouse.search.driver.reuse import continue_from_winner
from stillhouse.search.experiment.loading import load_experiment

TARGET = 1.0
GOAL = "val_accuracy"


def data_of(root: str | None, images: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data of source and target; ``images`` limits the digits."""
    if root is None:
        digits = {"source": "digits", "validation": 0.5, "limit": images}
        return {**digits, "classes": [0, 1, 2, 3, 4]}, {**digits, "classes": [5, 6, 7, 8, 9]}
    small = {"limit": 2000, "validation": 0.1}
    return (
        {"source": "mnist", "root": f"{root}/mnist", **small},
        {"source": "fashion_mnist", "root": root, **small},
    )


def experiment(name: str, data: dict[str, Any], folder: str, trials: int) -> dict[str, Any]:
    """Five settings of a small student's training, the defaults far from good."""
    return {
        "name": name,
        "data": data,
        "stages": {
            "teacher": {
                "network": "cnn6",
                "objective": {"cross_entropy": {}},
                "training": {"epochs": 8, "batch_size": 64, "lr": 0.05},
            },
            "student": {
                "network": {"cnn2": {"width": 0.5}},
                "teachers": ["teacher"],
                "objective": {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}},
                "training": {"epochs": 4, "batch_size": 64, "lr": 0.005},
            },
        },
        "search": {
            "student.training.lr": {"log_uniform": [0.001, 1.0]},
            "student.training.momentum": {"uniform": [0.1, 0.98]},
            "student.training.batch_size": {"integers": [16, 256, 16]},
            "student.objective.soft_targets.weight": {"uniform": [0.0, 1.0]},
            "student.objective.soft_targets.temperature": {"log_uniform": [1.0, 16.0]},
        },
        "goal": {"maximize": f"student.{GOAL}"},
        "run": {"trials": trials, "repeats": {"top": 1, "seeds": 1}, "baselines": False},
        "library": f"{folder}/library",
        "tracking": f"sqlite:///{folder}/mlflow.db",
    }


def reached(values: Sequence[float], best: float) -> int:
    """The number of trials until ``best``; all plus one if no trial reaches it."""
    return next((i for i, value in enumerate(values, start=1) if value >= best), len(values) + 1)


def values_of(launched: LaunchResult) -> list[float]:
    """The goal's value of every trial, in order; 0 where it failed."""
    return [trial.figures.get(GOAL, 0.0) for trial in launched.outcome.trials]


def main() -> int:
    """Search the source once, the target cold and warm for every seed, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder with mnist and FashionMNIST")
    parser.add_argument("--images", type=int, help="of the digits; else all")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    args = arguments(parser, trials=2, seeds=1, images=100)
    source, target = data_of(args.root, args.images)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STILLHOUSE_RUNS"] = f"{folder}/runs"
        document = experiment("source", source, folder, args.trials)
        launch(load_experiment(document), inline=True)
        for seed in range(args.seeds):
            document = experiment("target", target, folder, args.trials)
            cold = values_of(launch(load_experiment(document, {"run.seed": seed}), inline=True))
            changes = {f"data.{name}": value for name, value in target.items()}
            further = continue_from_winner("source", {**changes, "run.seed": seed}, args.trials)
            warm = values_of(launch(further, inline=True))
            best = max(cold)
            rows.append((seed, best, max(warm), reached(cold, best), reached(warm, best)))
            print(rows[-1], file=sys.stderr)
    print(f"{args.trials} trials each; trials until the cold search's best is reached")
    print(f"{'seed':>4} {'best, cold':>11} {'best, warm':>11} {'cold':>6} {'warm':>6}")
    for seed, best, other, slow, fast in rows:
        print(f"{seed:4} {best:11.4f} {other:11.4f} {slow:6} {fast:6}")
    ratio = statistics.fmean(row[3] for row in rows) / statistics.fmean(row[4] for row in rows)
    return outcome("warm_start", ratio, TARGET, args)


if __name__ == "__main__":
    sys.exit(main())
