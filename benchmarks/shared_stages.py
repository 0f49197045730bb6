"""A search over assistants with shared stages, compared with a whole chain for every trial.

Both ways run the same configurations with the same code, as many at once as there are cores. The
product makes every teacher and assistant once, in an empty library. The plain way gives each trial
its own library, so each trial trains teacher, assistants and student. Both times include start and
stop of the workers. The product's time also includes Ray, the study, MLflow and the report. All
figures of all students must be the same to the last bit.

    python benchmarks/shared_stages.py [--trials 48]

Exit status 1 if the speed-up is below the target, or any figure differs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
from _outcome import arguments, outcome

from stillhouse.search.artifacts.store import Library
from stillhouse.search.driver.launch import launch
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment

TARGET = 3.0
LEARNER = {
    "objective": {"cross_entropy": {"weight": 0.3}, "soft_targets": {"weight": 0.7}},
    "training": {"epochs": 8, "batch_size": 64},
}
TIMES = ("seconds", "images_per_second")

Job = tuple[dict[str, Any], Mapping[str, Any]]


def experiment(folder: str, trials: int) -> dict[str, Any]:
    """Digits at 16 x 16 pixels: a teacher of ten layers, up to three assistants, one student."""
    return {
        "name": "shared-stages",
        "data": {"source": "digits", "resize": 16},
        "stages": {
            "teacher": {
                "network": "cnn10",
                "objective": {"cross_entropy": {}},
                "training": LEARNER["training"],
            },
            "assistants": {"do": "chain", "teacher": "teacher", **LEARNER},
            "student": {
                "network": {"cnn2": {"width": 0.25}},
                "teachers": ["assistants"],
                **LEARNER,
            },
        },
        "search": {
            "assistants.networks": {"chain": ["cnn8", "cnn6", "cnn4"]},
            "student.objective.soft_targets.weight": {"uniform": [0.1, 1.0]},
        },
        "goal": {"maximize": "student.val_accuracy"},
        "run": {
            "trials": trials,
            "sampler": "random",
            "repeats": {"top": 0, "seeds": 1},
            "baselines": False,
        },
        "library": f"{folder}/library",
        "tracking": f"sqlite:///{folder}/mlflow.db",
    }


def alone(job: Job) -> tuple[dict[str, float], int]:
    """One trial with its whole chain: the student's figures and the number of trained networks."""
    document, values = job
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_experiment({**document, "library": folder}).stage_graph(values)
        library = Library(folder)
        for _ in build_stages([recipe.student], library):
            pass
        records = library.records()
    student = next(record for record in records if record.key == recipe.student.key)
    return timeless(student.figures), len(records)


def timeless(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that do not depend on other load of the machine."""
    return {name: value for name, value in figures.items() if name not in TIMES}


def main() -> int:
    """Search, replay the same configurations the plain way, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=48)
    args = arguments(parser, trials=2)
    slots = os.cpu_count() or 1

    with tempfile.TemporaryDirectory() as folder:
        os.environ["STILLHOUSE_RUNS"] = f"{folder}/runs"
        document = experiment(folder, args.trials)
        started = time.perf_counter()
        launched = launch(load_experiment(document))
        shared_seconds = time.perf_counter() - started
        trials = launched.outcome.trials
        networks = len(launched.outcome.records)

    jobs: list[Job] = [(document, trial.values) for trial in trials]
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(slots) as pool:
        found = pool.map(alone, jobs, chunksize=1)
    plain_seconds = time.perf_counter() - started

    shared = [
        timeless(launched.outcome.records[trial.stage_keys["student"]].figures) for trial in trials
    ]
    same = shared == [figures for figures, _ in found]
    print(f"{len(trials)} trials, {slots} at a time; same results: {'yes' if same else 'NO'}")
    print(f"{'':22} {'seconds':>9} {'networks trained':>18}")
    print(f"{'every trial its chain':22} {plain_seconds:9.1f} {sum(n for _, n in found):18}")
    print(f"{'shared stages':22} {shared_seconds:9.1f} {networks:18}")
    ratio = plain_seconds / shared_seconds
    return outcome("shared_stages", ratio, TARGET, args, well=same)


if __name__ == "__main__":
    sys.exit(main())
