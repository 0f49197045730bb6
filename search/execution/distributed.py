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

from stillhouse.methods.core.runtime.communication import DistributedCommunicator, PeerUnreachable
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import current_node_name
from stillhouse.search.cluster.preemption import is_draining
from stillhouse.search.execution.builder import build_stage
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.stages.core.stage import EpochMetrics, Stage
from stillhouse.spaces.config.problems import first_line

POLL_INTERVAL_S = 0.2
"""Seconds between two looks at whether the workers are still at it."""


class WorkerLost(Exception):
    """One of the workers is gone, and with it what they did since the last save."""


def start_distributed_build(
    stage: Stage, library_uri: str, resources: ResourceSettings, num_workers: int
) -> Any:
    """Start making a stage; yields references to its reports, and then to its record.

    Args:
        stage: its parents are in the library.
        library: where that is.
        wish: what each worker occupies.
        workers: how many make it.
    """
    task: Any = _build_distributed
    # Where several clusters are on a machine, Train's own watch over this one asks the newest.
    env_vars = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    name = f"{stage.label} x {num_workers}"
    options = {"name": name, "runtime_env": {"env_vars": env_vars}}
    return task.options(**options).remote(stage, library_uri, resources, num_workers)


@ray.remote(max_retries=0, num_cpus=0)
def _build_distributed(
    stage: Stage, library_uri: str, resources: ResourceSettings, num_workers: int
) -> Iterator[str | EpochMetrics | Record]:
    message_queue = Queue(actor_options={"num_cpus": 0})
    loop_config = {
        "stage": stage,
        "library": library_uri,
        "news": message_queue,
        "threads": max(1, int(resources.cpu)),
    }
    with tempfile.TemporaryDirectory(prefix="stillhouse-train-") as folder:
        fit_result = _fit_in_thread(_make_trainer(num_workers, resources, folder, loop_config))
        try:
            while not (fit_result.done() and message_queue.empty()):
                try:
                    yield message_queue.get(timeout=POLL_INTERVAL_S)
                except Empty:
                    continue
            fit_result.result()
        except Exception as error:
            raise _root_cause(error) from None
        finally:
            message_queue.shutdown(force=True)
    record = Library(library_uri, must_exist=True).record(stage.key)
    if record is None:
        raise RuntimeError("ended without a record")
    yield record


def _make_trainer(
    num_workers: int, resources: ResourceSettings, storage_folder: str, loop_config: dict[str, Any]
) -> Any:
    # Imported here: the loading of Train is for those to wait for who use it.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources_per_worker = {"CPU": resources.cpu} | (
        {"GPU": resources.gpu} if resources.gpu else {}
    )
    return TorchTrainer(
        _train_loop,
        train_loop_config=loop_config,
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=resources.gpu > 0,
            resources_per_worker=resources_per_worker,
        ),
        # Train wants a place for checkpoints; half-done stages are kept in the library instead.
        run_config=RunConfig(
            storage_path=storage_folder, failure_config=FailureConfig(max_failures=0)
        ),
    )


def _fit_in_thread(trainer: Any) -> Future[None]:
    """Have the workers work in a thread that the end of this process need not wait for."""
    fit_result: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            fit_result.set_exception(error)
        else:
            fit_result.set_result(None)

    threading.Thread(target=fit, name="fit", daemon=True).start()
    return fit_result


def _train_loop(config: dict[str, Any]) -> None:
    """What each worker runs."""
    torch.set_num_threads(config["threads"])
    communicator = DistributedCommunicator()
    library = Library(config["library"], must_exist=True)
    if communicator.is_rank_zero:
        config["news"].put(current_node_name())  # begun: from here on silence counts
        config["news"].put(get_current_placement_group())  # for who ends it from outside
    for report in build_stage(
        config["stage"], library, is_draining=is_draining, communicator=communicator
    ):
        if communicator.is_rank_zero:
            config["news"].put(report)


def _root_cause(error: Exception) -> Exception:
    """Why the workers failed: a program's own error where there is one, else a lost worker."""
    from ray.train.v2._internal.exceptions import RayTrainError
    from ray.train.v2.api.exceptions import WorkerGroupError

    if isinstance(error, RayError):  # whoever stood between the foundry and the workers
        return WorkerLost(first_line(error))
    if not isinstance(error, WorkerGroupError):
        return RuntimeError(str(error).strip().splitlines()[-1])
    failures = error.worker_failures.values()
    for failure in failures:  # what Ray and Train say is always of a process that is gone
        if not isinstance(failure, PeerUnreachable | RayError | RayTrainError):
            return failure
    first = next(iter(failures), error)
    return WorkerLost(first_line(first))
