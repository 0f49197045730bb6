"""The overhead of a trial besides its training: a search of trivial trials, tracking included.

The search is a whole ``launch``. It starts and stops Ray, and writes the report. The study proposes
every trial, Tune runs it, the library stores it, and MLflow logs it on SQLite. The plain way trains
the same students in a loop and stores nothing. The overhead is a trial's wall time without
training:

    (launch - plain loop / slots) / trials

The ratio is the allowed overhead divided by the measured one: 1 or more meets the target.

    python benchmarks/overhead.py [--trials 200]

Exit status 1 if the overhead is higher than allowed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _outcome import arguments, outcome

from stillhouse.search.driver.launch import launch
from stillhouse.search.driver.launched import LaunchResult
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.events import Event, SearchStarted, TrialStarted
from stillhouse.search.stages.core.stage import Stage, StageContext

ALLOWED = 0.15
"""Allowed overhead of a trial, in seconds."""
TARGET = 1.0


def experiment(folder: Path, trials: int) -> dict[str, Any]:
    """Students of one epoch on fifty images."""
    return {
        "name": "overhead",
        "data": {"source": "digits", "limit": 50, "validation": 0.1},
        "stages": {
            "student": {
                "network": {"cnn2": {"width": 0.25}},
                "objective": {"cross_entropy": {}},
                "training": {"epochs": 1},
            }
        },
        "search": {"student.training.lr": {"log_uniform": [0.001, 0.1]}},
        "goal": {"maximize": "student.val_accuracy"},
        "run": {
            "trials": trials,
            "sampler": "random",
            "repeats": {"top": 0, "seeds": 1},
            "baselines": False,
        },
        "library": str(folder / "library"),
        "tracking": f"sqlite:///{folder}/mlflow.db",
    }


def plain(launched: LaunchResult, document: dict[str, Any]) -> float:
    """Seconds to train the students of all trials one after the other; stores nothing."""
    torch.set_num_threads(1)
    checked = load_experiment(document)
    students = [checked.stage_graph(trial.values).student for trial in launched.outcome.trials]
    train(students[0])  # the data is opened once, as a worker does
    started = time.perf_counter()
    for student in students:
        train(student)
    return time.perf_counter() - started


def train(student: Stage) -> None:
    """Run the operation of a stage without library or reports."""
    for _ in student.operation.run(student.data, [], StageContext(torch.device("cpu"))):
        pass


def main() -> int:
    """Launch, then loop, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    args = arguments(parser, trials=4)
    slots = os.cpu_count() or 1
    moments: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, SearchStarted | TrialStarted):
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        os.environ["STILLHOUSE_RUNS"] = f"{folder}/runs"
        document = experiment(Path(folder), args.trials)
        started = time.perf_counter()
        launched = launch(load_experiment(document), observers=[watch])
        whole = time.perf_counter() - started
        assert launched.unsent == 0
        loop = plain(launched, document)
    until_first = moments[1] - started
    overhead = whole - loop / slots
    rows = {
        "launch, whole": whole,
        "  until the first trial starts": until_first,
        "  from then on": whole - until_first,
        "plain loop": loop,
        "overhead": overhead,
    }
    print(f"{args.trials} trials, {slots} slots\n{'':34} {'seconds':>9} {'a trial':>9}")
    for name, seconds in rows.items():
        print(f"{name:34} {seconds:9.2f} {seconds / args.trials:9.4f}")
    ratio = ALLOWED / (overhead / args.trials)
    return outcome("overhead", ratio, TARGET, args)


if __name__ == "__main__":
    sys.exit(main())
