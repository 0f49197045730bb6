"""How the cost of each central part grows with the number of trials, stages and artifacts.

    study      ask and tell a second, with so many trials in the journal
    library    publish, record, has a second, and a listing of all records, in a folder
    outbox     operations of tracking a second, written and read again
    scheduler  so many stages submitted at once: seconds until accepted, and until all are built
    driver     a search of so many trivial trials: wall and processor seconds a trial, and memory

The driver is compared with plain Tune on the same students, without proposals, storage or logging.
The ratio is the driver's processor time for a trial in the first interval, divided by that in the
last: 1 if nothing grows, 0.5 if a trial costs twice as much at the end.

    python benchmarks/scale.py [--trials 10000] [--stages 1000] [--artifacts 10000]
        [--sampler random] [--parts study,library,outbox,scheduler,driver] [--clock processor]

Exit status 1 if a trial costs more than twice as much at the end.

``--clock processor`` counts processor time instead of wall time in the first three parts, which run
in this process alone. On a shared machine only processor time is meaningful.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from _outcome import arguments, outcome

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import connect
from stillhouse.search.driver.launch import launch
from stillhouse.search.execution.builder import build_stage
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import Event, StageChanged, TrialEnded
from stillhouse.search.monitoring.mlflow.outbox import Outbox
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.study import Study

STEPS = (100, 1000, 2500, 5000, 10_000, 100_000)
ASKED = 20
"""Trials asked and told for one measurement of the study."""
PLAIN = 1000
"""Trials of plain Tune, at most."""
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
TARGET = 0.5
PARTS = ("study", "library", "outbox", "scheduler", "driver")


def experiment(folder: Path, trials: int, sampler: str = "random") -> Experiment:
    """Students of one epoch on fifty images; three values are searched."""
    training = "student.training"
    return load_experiment(
        {
            "name": "scale",
            "data": {"source": "digits", "limit": 50, "validation": 0.1},
            "stages": {
                "student": {
                    "network": {"cnn2": {"width": 0.25}},
                    "objective": {"cross_entropy": {}},
                    "training": {"epochs": 1},
                }
            },
            "search": {
                f"{training}.lr": {"log_uniform": [0.001, 0.1]},
                f"{training}.momentum": {"uniform": [0.5, 0.95]},
                f"{training}.weight_decay": {"log_uniform": [1e-6, 1e-2]},
            },
            "goal": {"maximize": "student.val_accuracy"},
            "run": {
                "trials": trials,
                "sampler": sampler,
                "repeats": {"top": 0, "seeds": 1},
                "baselines": False,
            },
            "library": str(folder / "library"),
            "tracking": f"sqlite:///{folder}/mlflow.db",
        }
    )


def steps(most: int) -> list[int]:
    """The sizes at which to measure, up to ``most``."""
    return [step for step in STEPS if step < most] + [most]


def stages(folder: Path) -> Iterator[Stage]:
    """Students that differ in their seed."""
    student = experiment(folder, 1).stage_graph().student
    for seed in itertools.count(1):
        yield replace(student, operation=student.operation.model_copy(update={"seed": seed}))


def a_second(clock: Clock, work: Callable[[], Any], times: int) -> float:
    """Calls of ``work`` a second."""
    started = clock()
    for _ in range(times):
        work()
    return times / (clock() - started)


def table(title: str, columns: Sequence[str]) -> None:
    """Print the heading of a table."""
    print(f"\n{title}\n{'':>10}" + "".join(f"{name:>15}" for name in columns), flush=True)


def row(step: int, figures: Sequence[float]) -> None:
    """Print one row of a table."""
    print(f"{step:>10}" + "".join(f"{figure:>15,.4g}" for figure in figures), flush=True)


# Study


def study(folder: Path, args: argparse.Namespace) -> None:
    """Ask and tell with so many trials in the journal."""
    clock = CLOCKS[args.clock]
    table("study, a second", ("random ask", "random tell", "tpe ask", "tpe tell", "opened in s"))
    there = 0
    for step in steps(args.trials):
        filler = Study(experiment(folder, args.trials), folder / "study")
        ask_and_tell_rates(clock, filler, step - there)
        figures = [ask_and_tell_rates(clock, filler, ASKED)]
        started = clock()
        tpe_study = Study(experiment(folder, args.trials, "tpe"), folder / "study")
        opened = clock() - started
        figures.append(ask_and_tell_rates(clock, tpe_study, ASKED))
        there = step + 2 * ASKED
        row(step, [*figures[0], *figures[1], opened])


def ask_and_tell_rates(clock: Clock, asked_study: Study, trials: int) -> tuple[float, float]:
    """Asks and tells a second."""
    asking = telling = 0.0
    for _ in range(max(1, trials)):
        started = clock()
        proposal = asked_study.ask()
        assert proposal is not None
        asked = clock()
        value = float(proposal.values["student.training.momentum"])
        asked_study.tell(proposal.number, {"val_accuracy": value})
        asking += asked - started
        telling += clock() - asked
    return max(1, trials) / asking, max(1, trials) / telling


# Library


def library(folder: Path, args: argparse.Namespace) -> None:
    """Artifacts of one small student under other keys."""
    clock = CLOCKS[args.clock]
    columns = ("publish", "record, read", "record, known", "not there", "all listed in s")
    table("library, a second", columns)
    home = Library(str(folder / "library"))
    student = next(stages(folder))
    for _ in build_stage(student, home):
        pass
    record = home.record(student.key)
    assert record is not None
    data = (
        folder / f"library/artifacts/{record.key[:2]}/{record.key}" / record.payload.name
    ).read_bytes()
    numbers = itertools.count()
    there = 1
    for step in steps(args.artifacts):
        publish = a_second(
            clock,
            lambda: home.publish(record.model_copy(update={"key": hash_of(next(numbers))}), data),
            step - there,
        )
        there = step
        some = [hash_of(number) for number in range(0, step - 1, max(1, step // 100))]
        fresh = Library(home.uri)
        keys = iter(some * 2)
        read = a_second(clock, lambda: fresh.record(next(keys)), len(some))  # noqa: B023
        known = a_second(clock, lambda: fresh.has(next(keys)), len(some))  # noqa: B023
        missing = a_second(clock, lambda: fresh.has("f" * 64), 100)  # noqa: B023
        started = clock()
        assert len(Library(home.uri).records()) == step
        row(step, [publish, read, known, missing, clock() - started])


def hash_of(number: int) -> str:
    """A key, spread as keys are."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:048x}"


# Outbox


def outbox(folder: Path, args: argparse.Namespace) -> None:
    """Operations of three metrics, written one by one and read by hundreds."""
    clock = CLOCKS[args.clock]
    table("outbox, operations a second", ("append", "read, mark", "bytes each"))
    operation = {"do": "log", "run": "trial 1234", "at": 1_700_000_000_000, "step": 1}
    operation["metrics"] = {"train_loss": 1.25, "val_accuracy": 0.8125, "val_nll": 0.5}
    for step in steps(args.trials):
        own = Outbox(folder / f"outbox-{step}")
        put = a_second(clock, lambda: own.append(operation), step)  # noqa: B023
        size = (folder / f"outbox-{step}" / "operations.jsonl").stat().st_size / step
        started = clock()
        while own.num_pending:
            taken, end = own.read(500)
            own.mark_sent(len(taken), end)
        row(step, [put, step / (clock() - started), size])
        own.close()


# Scheduler


def scheduler(folder: Path, args: argparse.Namespace) -> None:
    """Stages submitted at once, and the same stages as plain Ray tasks."""
    columns = ("accepted in s", "built in s", "plain tasks s", "events", "event bytes", "actor MiB")
    table("scheduler", columns)
    connect(None)
    import ray

    home = Library(str(folder / "library"))
    every = stages(folder)
    task: Any = ray.remote(max_retries=0)(
        lambda stage, uri: len(list(build_stage(stage, Library(uri))))
    )
    slots = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
    # Load the modules and start the scheduler before anything is timed.
    ray.get([task.remote(next(every), home.uri) for _ in range(4 * slots)])
    first = SchedulerClient(home, ResourceSettings(), EventDispatcher([]), slots)
    first.build([next(every)])
    for step in steps(args.stages):
        submitted = list(itertools.islice(every, step))
        events: list[StageChanged] = []
        client = SchedulerClient(home, ResourceSettings(), EventDispatcher([events.append]), slots)  # type: ignore[list-item]
        started = time.perf_counter()
        client.submit(submitted)
        accepted = time.perf_counter() - started
        assert client.build(submitted) == {}
        built = time.perf_counter() - started
        used = memory("ray::StageScheduler")
        client.close()
        started = time.perf_counter()
        ray.get([task.remote(stage, home.uri) for stage in itertools.islice(every, step)])
        plain = time.perf_counter() - started
        size = sum(len(pickle.dumps(event)) for event in events)
        row(step, [accepted, built, plain, len(events), size, used])
    first.close()
    ray.shutdown()


def memory(title: str) -> float:
    """Resident MiB of all descendants of this process with that title."""
    parents, total = {}, 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
    for process in parents:
        ancestor = process
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and process != ancestor:
            total += resident(process, title)
    return total


def resident(process: int, title: str = "") -> float:
    """Resident MiB of a process, or 0 if it has another title."""
    with suppress(FileNotFoundError, ProcessLookupError):
        command_line = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        if title in command_line.split("\0")[0]:
            return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
    return 0.0


# Driver


class Watch:
    """Measures the driver when certain numbers of trials have ended."""

    def __init__(self, trials: int) -> None:
        self._marks = set(steps(trials))
        self._ended = 0
        self._before = (0, time.perf_counter(), time.process_time())
        self.costs: list[float] = []
        self.stopped = 0.0

    def __call__(self, event: Event) -> None:
        """Count ended trials, and print a row at each mark."""
        if not isinstance(event, TrialEnded):
            return
        self._ended += 1
        if self._ended == 1:  # the start of the search does not count
            self._before = (1, time.perf_counter(), time.process_time())
        if self._ended in self._marks:
            now = (self._ended, time.perf_counter(), time.process_time())
            trials = max(1, now[0] - self._before[0])
            wall, cpu = (
                (after - before) / trials
                for before, after in zip(self._before[1:], now[1:], strict=True)
            )
            self.costs.append(cpu)
            self.stopped, self._before = now[1], now
            used = [resident(os.getpid()), *(memory(name) for name in ("gcs_server", "raylet"))]
            row(self._ended, [wall, cpu, *used])


def driver(folder: Path, args: argparse.Namespace) -> int:
    """A whole search, then the same students with plain Tune."""
    columns = ("wall s, each", "cpu s, each", "driver MiB", "gcs MiB", "raylet MiB")
    table(f"driver, {args.sampler}, of the trials since the line above", columns)
    os.environ["STILLHOUSE_RUNS"] = str(folder / "runs")
    watch = Watch(args.trials)
    launched = launch(experiment(folder, args.trials, args.sampler), observers=[watch])
    ending = time.perf_counter() - watch.stopped
    print(f"from the last trial to the end {ending:.1f} s, {launched.unsent} operations unsent")
    count = min(args.trials, PLAIN)
    plain = plain_tune(folder, count)
    print(f"plain Tune, {count} trials: {plain:.4f} wall s each", flush=True)
    ratio = watch.costs[0] / watch.costs[-1]
    return outcome("scale", ratio, TARGET, args)


def plain_tune(folder: Path, trials: int) -> float:
    """Seconds of a trial with plain Tune, from the first to the last result."""
    import ray
    from ray import tune

    connect(None)

    class Trivial(tune.Trainable):
        """Trains a student and keeps nothing."""

        def setup(self, config: dict[str, Any], student: Stage) -> None:  # type: ignore[override]
            self.student = student

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing to save; Tune asks at the end."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing was saved."""

        def step(self) -> dict[str, Any]:
            import torch

            from stillhouse.search.stages.core.stage import StageContext

            torch.set_num_threads(1)
            for _ in self.student.operation.run(
                self.student.data, [], StageContext(torch.device("cpu"))
            ):
                pass
            return {"done": True, "ended": time.time()}

    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    found = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trivial, student=next(stages(folder))), {"cpu": 1}
        ),
        param_space={"lr": tune.loguniform(0.001, 0.1)},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(name="plain", storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    ray.shutdown()
    results = (found[number] for number in range(len(found)))
    ended = sorted(result.metrics["ended"] for result in results if result.metrics)
    return float(ended[-1] - ended[0]) / max(1, len(ended) - 1)


def main() -> int:
    """The parts in turn, a table each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = arguments(parser, trials=4, stages=4, artifacts=4)
    parts: dict[str, Callable[[Path, argparse.Namespace], int | None]]
    parts = {"study": study, "library": library, "outbox": outbox, "scheduler": scheduler}
    parts["driver"] = driver
    short = 0
    for name in args.parts.split(","):
        with tempfile.TemporaryDirectory(prefix=f"scale-{name}-") as folder:
            short += parts[name](Path(folder), args) or 0
    return short


if __name__ == "__main__":
    sys.exit(main())
