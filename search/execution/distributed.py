"""A stage that several workers make together, started by Ray Train.

The foundry's task for such a stage occupies nothing itself: it has Train start the workers, each
with the resources of an ordinary stage, hears from the first of them, and tells the foundry what
that told. Train's own retries are off: the foundry starts the whole again after a lost worker, and
all go on from the last epoch that the first one saved in the library. Never inside a trial: what
Train starts there stays when Tune stops the trial.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.placement_group import get_current_placement_group
from ray.util.queue import Empty, Queue

from stillhouse.methods.core.runtime.communication import Parted, Partner
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import this_node
from stillhouse.search.cluster.preemption import leaving
from stillhouse.search.execution.builder import make
from stillhouse.search.experiment.schema import Resources
from stillhouse.search.stages.core.stage import Report, Stage
from stillhouse.spaces.config.problems import first_line

SILENT = 0.2
"""Seconds between two looks at whether the workers are still at it."""


class LostPartner(Exception):
    """One of the workers is gone, and with it what they did since the last save."""


def make_with_partners(stage: Stage, library: str, wish: Resources, workers: int) -> Any:
    """Start making a stage; yields references to its reports, and then to its record.

    Args:
        stage: its parents are in the library.
        library: where that is.
        wish: what each worker occupies.
        workers: how many make it.
    """
    task: Any = _make
    # Where several clusters are on a machine, Train's own watch over this one asks the newest.
    here = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    name = f"{stage.label} x {workers}"
    options = {"name": name, "runtime_env": {"env_vars": here}}
    return task.options(**options).remote(stage, library, wish, workers)


@ray.remote(max_retries=0, num_cpus=0)
def _make(
    stage: Stage, library: str, wish: Resources, workers: int
) -> Iterator[str | Report | Record]:
    news = Queue(actor_options={"num_cpus": 0})
    told = {"stage": stage, "library": library, "news": news, "threads": max(1, int(wish.cpu))}
    with tempfile.TemporaryDirectory(prefix="stillhouse-train-") as folder:
        fitting = _aside(_trainer(workers, wish, folder, told))
        try:
            while not (fitting.done() and news.empty()):
                try:
                    yield news.get(timeout=SILENT)
                except Empty:
                    continue
            fitting.result()
        except Exception as error:
            raise _cause(error) from None
        finally:
            news.shutdown(force=True)
    record = Library(library, found=True).record(stage.key)
    if record is None:
        raise RuntimeError("ended without a record")
    yield record


def _trainer(workers: int, wish: Resources, folder: str, told: dict[str, Any]) -> Any:
    # Imported here: the loading of Train is for those to wait for who use it.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    each = {"CPU": wish.cpu} | ({"GPU": wish.gpu} if wish.gpu else {})
    return TorchTrainer(
        _take_part,
        train_loop_config=told,
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=wish.gpu > 0, resources_per_worker=each
        ),
        # Train wants a place for checkpoints; half-done stages are kept in the library instead.
        run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=0)),
    )


def _aside(trainer: Any) -> Future[None]:
    """Have the workers work in a thread that the end of this process need not wait for."""
    fitting: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            fitting.set_exception(error)
        else:
            fitting.set_result(None)

    threading.Thread(target=fit, name="fit", daemon=True).start()
    return fitting


def _take_part(told: dict[str, Any]) -> None:
    """What each worker runs."""
    torch.set_num_threads(told["threads"])
    worker = Partner()
    library = Library(told["library"], found=True)
    if worker.leads:
        told["news"].put(this_node())  # begun: from here on silence counts
        told["news"].put(get_current_placement_group())  # for who ends it from outside
    for report in make(told["stage"], library, leaving=leaving, worker=worker):
        if worker.leads:
            told["news"].put(report)


def _cause(error: Exception) -> Exception:
    """Why the workers failed: a program's own error where there is one, else a lost worker."""
    from ray.train.v2._internal.exceptions import RayTrainError
    from ray.train.v2.api.exceptions import WorkerGroupError

    if isinstance(error, RayError):  # whoever stood between the foundry and the workers
        return LostPartner(first_line(error))
    if not isinstance(error, WorkerGroupError):
        return RuntimeError(str(error).strip().splitlines()[-1])
    failures = error.worker_failures.values()
    for failure in failures:  # what Ray and Train say is always of a process that is gone
        if not isinstance(failure, Parted | RayError | RayTrainError):
            return failure
    first = next(iter(failures), error)
    return LostPartner(first_line(first))
