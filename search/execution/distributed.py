"""A stage that several workers build together, started by Ray Train.

The task of such a stage occupies no resources itself. It lets Train start the workers, each with
the resources of an ordinary stage, and forwards the messages of the first worker. Train's own
retries are off: the stage scheduler repeats the task after a lost worker. All workers then resume
from the last epoch that the first one saved in the library. This never runs inside a trial, where
Train's workers would survive the trial.
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
from stillhouse.search.cluster.private_api import is_train_error
from stillhouse.search.execution.builder import build_stage
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.stages.core.stage import EpochMetrics, Stage
from stillhouse.spaces.config.problems import first_line

POLL_INTERVAL_S = 0.2
"""Seconds between two checks whether the workers still run."""


class WorkerLost(Exception):
    """One of the workers is lost, and with it all work since the last checkpoint."""


def start_distributed_build(
    stage: Stage, library_uri: str, resources: ResourceSettings, num_workers: int
) -> Any:
    """Start the build of a stage; returns the generator of a Ray task.

    Args:
        stage: its parents are in the library.
        library_uri: address of the library.
        resources: of each worker.
        num_workers: how many workers build the stage.
    """
    task: Any = _build_distributed
    # On a machine with several clusters, Train's own monitor would connect to the newest one.
    env_vars = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    name = f"{stage.label} x {num_workers}"
    options = {"name": name, "runtime_env": {"env_vars": env_vars}}
    return task.options(**options).remote(stage, library_uri, resources, num_workers)


@ray.remote(max_retries=0, num_cpus=0)
def _build_distributed(
    stage: Stage, library_uri: str, resources: ResourceSettings, num_workers: int
) -> Iterator[str | list[EpochMetrics] | list[Record]]:
    message_queue = Queue(actor_options={"num_cpus": 0})
    loop_config = {
        "stage": stage,
        "library": library_uri,
        "queue": message_queue,
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
    yield [record]


def _make_trainer(
    num_workers: int, resources: ResourceSettings, storage_folder: str, loop_config: dict[str, Any]
) -> Any:
    # Imported here: Train takes long to load, and most searches do not use it.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    amounts = {"CPU": resources.cpu, "GPU": resources.gpu}
    return TorchTrainer(
        _train_loop,
        train_loop_config=loop_config,
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=resources.gpu > 0,
            resources_per_worker={name: amount for name, amount in amounts.items() if amount},
        ),
        # Train requires a folder for checkpoints, but those of stages are in the library.
        run_config=RunConfig(
            storage_path=storage_folder, failure_config=FailureConfig(max_failures=0)
        ),
    )


def _fit_in_thread(trainer: Any) -> Future[None]:
    """Run the trainer in a daemon thread: the end of this process must not wait for it."""
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
    """Runs in each worker."""
    torch.set_num_threads(config["threads"])
    communicator = DistributedCommunicator()
    library = Library(config["library"], must_exist=True)
    if communicator.is_rank_zero:
        config["queue"].put(current_node_name())  # the time limit of messages begins
        config["queue"].put(get_current_placement_group())  # whoever cancels the task frees it
    for report in build_stage(
        config["stage"], library, is_draining=is_draining, communicator=communicator
    ):
        if communicator.is_rank_zero:
            config["queue"].put([report])


def _root_cause(error: Exception) -> Exception:
    """Why the workers failed: the program's own error if there is one, else a lost worker."""
    from ray.train import WorkerGroupError

    if isinstance(error, RayError):  # an actor between this task and the workers is lost
        return WorkerLost(first_line(error))
    if not isinstance(error, WorkerGroupError):
        return RuntimeError(str(error).strip().splitlines()[-1])
    failures = error.worker_failures.values()
    for failure in failures:  # errors of Ray and Train always mean a lost process
        if not (isinstance(failure, PeerUnreachable | RayError) or is_train_error(failure)):
            return failure
    first = next(iter(failures), error)
    return WorkerLost(first_line(first))
