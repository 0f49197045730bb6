"""How the parts that one driver has only once grow: with trials, stages, artifacts.

    study     ask and tell a second, with so many trials in the journal
    library   publish, record, has a second, and a listing of all records, in a folder
    spool     operations of tracking a second, written and taken out again
    foundry   so many stages wanted at once: until they are taken, until all have landed
    driver    a search of so many trivial trials: wall and processor seconds a trial, and memory

Beside the driver stands plain Tune with the same students, nothing proposed, stored or logged. The
ratio is that of the processor's seconds that a trial cost the driver in the first stretch to those
in the last: 1 where nothing grows, 0.5 where a trial has come to cost twice as much.

    python benchmarks/scale.py [--trials 10000] [--stages 1000] [--artifacts 10000]
        [--sampler random] [--parts study,library,spool,foundry,driver] [--clock processor]

Exit status 1 if a trial has come to cost more than twice as much.

``--clock processor`` counts the processor's seconds instead of the wall's in the first three, which
are this process alone: on a machine that others use too, the only figures that mean something.
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
"""Trials asked and told for one figure of the study."""
PLAIN = 1000
"""Trials of plain Tune, at most."""
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
TARGET = 0.5
PARTS = ("study", "library", "spool", "foundry", "driver")


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
    """Where figures are taken, up to ``most``."""
    return [step for step in STEPS if step < most] + [most]


def stages(folder: Path) -> Iterator[Stage]:
    """Students that differ in their seed."""
    student = experiment(folder, 1).stage_graph().student
    for seed in itertools.count(1):
        yield replace(student, operation=student.operation.model_copy(update={"seed": seed}))


def a_second(clock: Clock, work: Callable[[], Any], times: int) -> float:
    """How often ``work`` is done in a second."""
    started = clock()
    for _ in range(times):
        work()
    return times / (clock() - started)


def table(title: str, columns: Sequence[str]) -> None:
    """The head of a part's table."""
    print(f"\n{title}\n{'':>10}" + "".join(f"{name:>15}" for name in columns), flush=True)


def row(step: int, figures: Sequence[float]) -> None:
    """One line of it."""
    print(f"{step:>10}" + "".join(f"{figure:>15,.4g}" for figure in figures), flush=True)


# Study


def study(folder: Path, args: argparse.Namespace) -> None:
    """Ask and tell, where the journal holds so many trials."""
    clock = CLOCKS[args.clock]
    table("study, a second", ("random ask", "random tell", "tpe ask", "tpe tell", "opened in s"))
    there = 0
    for step in steps(args.trials):
        filler = Study(experiment(folder, args.trials), folder / "study")
        seconds_to_ask_and_tell(clock, filler, step - there)
        figures = [seconds_to_ask_and_tell(clock, filler, ASKED)]
        started = clock()
        mind = Study(experiment(folder, args.trials, "tpe"), folder / "study")
        opened = clock() - started
        figures.append(seconds_to_ask_and_tell(clock, mind, ASKED))
        there = step + 2 * ASKED
        row(step, [*figures[0], *figures[1], opened])


def seconds_to_ask_and_tell(clock: Clock, mind: Study, trials: int) -> tuple[float, float]:
    """Asks and tells a second."""
    asking = telling = 0.0
    for _ in range(max(1, trials)):
        started = clock()
        proposal = mind.ask()
        assert proposal is not None
        asked = clock()
        value = float(proposal.values["student.training.momentum"])
        mind.tell(proposal.number, {"val_accuracy": value})
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


# Spool


def spool(folder: Path, args: argparse.Namespace) -> None:
    """Operations of three metrics, written one by one and taken out by hundreds."""
    clock = CLOCKS[args.clock]
    table("spool, operations a second", ("append", "read, forget", "bytes each"))
    operation = {"do": "log", "run": "trial 1234", "at": 1_700_000_000_000, "step": 1}
    operation["metrics"] = {"train_loss": 1.25, "val_accuracy": 0.8125, "val_nll": 0.5}
    for step in steps(args.trials):
        own = Outbox(folder / f"spool-{step}")
        put = a_second(clock, lambda: own.append(operation), step)  # noqa: B023
        size = (folder / f"spool-{step}" / "operations.jsonl").stat().st_size / step
        started = clock()
        while own.num_pending:
            taken, end = own.read(500)
            own.mark_sent(len(taken), end)
        row(step, [put, step / (clock() - started), size])
        own.close()


# Foundry


def foundry(folder: Path, args: argparse.Namespace) -> None:
    """Stages wanted at once, beside the same in plain Ray tasks, all handed over at once."""
    columns = ("taken in s", "landed in s", "plain tasks s", "news", "news, bytes", "foundry MiB")
    table("foundry", columns)
    connect(None)
    import ray

    home = Library(str(folder / "foundry"))
    every = stages(folder)
    task: Any = ray.remote(max_retries=0)(
        lambda stage, uri: len(list(build_stage(stage, Library(uri))))
    )
    slots = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
    # Loaded and hired, before anything counts.
    ray.get([task.remote(next(every), home.uri) for _ in range(4 * slots)])
    kept = SchedulerClient(home, ResourceSettings(), EventDispatcher([]), slots)
    kept.build([next(every)])
    for step in steps(args.stages):
        wanted = list(itertools.islice(every, step))
        heard: list[StageChanged] = []
        orders = SchedulerClient(home, ResourceSettings(), EventDispatcher([heard.append]), slots)  # type: ignore[list-item]
        started = time.perf_counter()
        orders.submit(wanted)
        taken = time.perf_counter() - started
        assert orders.build(wanted) == {}
        landed = time.perf_counter() - started
        used = memory("ray::Foundry")
        orders.close()
        started = time.perf_counter()
        ray.get([task.remote(stage, home.uri) for stage in itertools.islice(every, step)])
        plain = time.perf_counter() - started
        size = sum(len(pickle.dumps(event)) for event in heard)
        row(step, [taken, landed, plain, len(heard), size, used])
    kept.close()
    ray.shutdown()


def memory(title: str) -> float:
    """MiB that processes of that title among the descendants of this one occupy."""
    parents, total = {}, 0.0
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = (place / "stat").read_text().rpartition(")")[2].split()
            parents[int(place.name)] = int(stat[1])
    for process in parents:
        ancestor = process
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and process != ancestor:
            total += resident(process, title)
    return total


def resident(process: int, title: str = "") -> float:
    """MiB in memory, if the process has that title."""
    with suppress(FileNotFoundError, ProcessLookupError):
        command_line = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        if title in command_line.split("\0")[0]:
            return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
    return 0.0


# Driver


class Watch:
    """Takes figures of the driver when so many trials have ended."""

    def __init__(self, trials: int) -> None:
        self._marks = set(steps(trials))
        self._ended = 0
        self._before = (0, time.perf_counter(), time.process_time())
        self.costs: list[float] = []
        self.stopped = 0.0

    def __call__(self, event: Event) -> None:
        """One trial more has ended."""
        if not isinstance(event, TrialEnded):
            return
        self._ended += 1
        if self._ended == 1:  # from here on: what starts once is no trial's
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
    """A whole search, then the same students by plain Tune."""
    columns = ("wall s, each", "cpu s, each", "driver MiB", "gcs MiB", "raylet MiB")
    table(f"driver, {args.sampler}, of the trials since the line above", columns)
    os.environ["STILLHOUSE_RUNS"] = str(folder / "runs")
    watch = Watch(args.trials)
    launched = launch(experiment(folder, args.trials, args.sampler), observers=[watch])
    rest = time.perf_counter() - watch.stopped
    print(f"from the last trial to the end {rest:.1f} s, {launched.unsent} operations unsent")
    count = min(args.trials, PLAIN)
    plain = plain_tune(folder, count)
    print(f"plain Tune, {count} trials: {plain:.4f} wall s each", flush=True)
    ratio = watch.costs[0] / watch.costs[-1]
    return outcome("scale", ratio, TARGET, args)


def plain_tune(folder: Path, trials: int) -> float:
    """Seconds a trial, from the first to the last result."""
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
    parts = {"study": study, "library": library, "spool": spool, "foundry": foundry}
    parts["driver"] = driver
    short = 0
    for name in args.parts.split(","):
        with tempfile.TemporaryDirectory(prefix=f"scale-{name}-") as folder:
            short += parts[name](Path(folder), args) or 0
    return short


if __name__ == "__main__":
    sys.exit(main())
