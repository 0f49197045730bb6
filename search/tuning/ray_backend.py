"""Ray Tune: connects to a cluster and runs the trials of a search on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import connect, disconnect, head_address
from stillhouse.search.cluster.head import HeadMonitor
from stillhouse.search.cluster.nodes import (
    alive_node_resources,
    check_nodes,
    check_stores,
    node_usage,
)
from stillhouse.search.cluster.private_api import logs_folder
from stillhouse.search.execution.capacity import capacity
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.experiment.workers import check_worker_capacity
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.attempt import GOAL_METRIC
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.search.tuning.proxy_screen import (
    LocalStageSubmitter,
    StageSubmitter,
    proposal_queue,
)
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.scheduling import make_scheduler
from stillhouse.search.tuning.searcher import GatedSearcher
from stillhouse.search.tuning.trial import TrialTrainable
from stillhouse.spaces.config.problems import ConfigError, Problem

MAX_TRIAL_RETRIES = 3
"""How often a trial whose worker was lost is started again."""


def num_slots(resources: ResourceSettings, autoscaled_slots: int = 0) -> int:
    """How many trials the cluster can run at once.

    Args:
        resources: of one trial.
        autoscaled_slots: trials at once after the cluster has grown, as the user says. Ray
            knows the nodes that are there, not those that an autoscaler would bring.

    Raises:
        ConfigError: not one fits on any node, and nobody says that others will come.
    """
    nodes = alive_node_resources()
    slots_by_node = [capacity(resources, node) for node in nodes]
    if sum(slots_by_node) or autoscaled_slots:
        return max(sum(slots_by_node), autoscaled_slots)
    largest = ", ".join(
        f"{node.get('CPU', 0):g} cpu and {node.get('GPU', 0):g} gpu" for node in nodes
    )
    message = (
        f"a trial asks for {resources.cpu:g} cpu and {resources.gpu:g} gpu, "
        f"but the nodes of this cluster have {largest}; ask for less, or set run.concurrent where "
        "nodes come when they are asked for"
    )
    raise ConfigError([Problem("run.resources", message)])


def is_multi_node(resources: ResourceSettings, autoscaled_slots: int) -> bool:
    """Whether more than one machine works on the search, or will where the cluster grows."""
    nodes = alive_node_resources()
    return len(nodes) > 1 or autoscaled_slots > sum(capacity(resources, node) for node in nodes)


class RayBackend:
    """Builds stages in the stage scheduler and runs trials with Tune on the cluster at ``address``.

    ``stores`` are the addresses of what the search writes besides the library, by field. ``gone``
    is called, in another thread, when the cluster's head has not answered for long.

    Raises:
        ConfigError: there is no such cluster, its nodes run other versions or do not see the
            library, a store is a file that serves one machine, or a trial, or all workers of a
            stage at once, find no room on them.
    """

    def __init__(
        self,
        experiment: Experiment,
        library: Library,
        dispatch: EventDispatcher,
        folder: Path,
        address: str | None,
        stores: Mapping[str, str] | None = None,
        on_cluster_lost: Callable[[str], None] | None = None,
    ) -> None:
        # Workers read neither store, and need no password of theirs.
        self._experiment = replace(experiment, tracking=None, study=None)
        self._library = library
        self._dispatch = dispatch
        self._folder = folder
        connect(address)
        self._dashboard_folder = logs_folder() if address else None
        try:
            autoscaled_slots = (experiment.run.concurrent or 0) if address else 0
            if address and is_multi_node(experiment.run.resources, autoscaled_slots):
                check_stores(stores or {})
            if address:
                check_nodes(library.uri, library.write_marker, library.remove_file)
            self._num_slots = num_slots(experiment.run.resources, autoscaled_slots)
            check_worker_capacity(experiment, self._num_slots)
        except ConfigError:
            disconnect()
            raise
        run = experiment.run
        self._max_concurrent = run.concurrent or self._num_slots
        self._scheduler_client = SchedulerClient(
            library, run.resources, dispatch, run.hang_after, self._max_concurrent
        )
        self._head_monitor = (
            HeadMonitor(head_address(), on_cluster_lost) if address and on_cluster_lost else None
        )

    def build(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Make stages and all they rest on; returns key -> reason for those that failed."""
        return self._scheduler_client.build(stages)

    def run_trials(self, recorder: TrialRecorder, num_trials: int) -> bool:
        """Run the trials that are left. Returns whether the search ended by itself.

        Raises:
            StorageUnavailable: the library or the study cannot be used any more.
        """
        self._build_distributed_student()
        max_concurrent = self._max_concurrent
        # On a single slot nobody could make a stage while a trial's idle actor keeps the slot.
        scheduler_client = self._scheduler_client if self._num_slots > 1 else None
        submitter = scheduler_client or self._local_submitter()
        queue = proposal_queue(
            self._experiment, recorder, self._library, submitter, num_trials, max_concurrent
        )
        searcher = GatedSearcher(recorder, scheduler_client, queue, max_concurrent)
        if not searcher.is_exhausted:
            _configure_tune(max_concurrent)
            try:
                self._make_tuner(searcher).fit()
            except Exception:
                if searcher.storage_error is None:
                    raise
            if searcher.storage_error:
                raise searcher.storage_error from None
        return searcher.is_exhausted

    def _build_distributed_student(self) -> None:
        """A student of several workers, where nothing is searched: its trial finds it made, as
        none can be started inside a trial."""
        if not self._experiment.search:
            student = self._experiment.stage_graph().student
            if student.operation.workers > 1:
                self._scheduler_client.build([student])

    def _local_submitter(self) -> StageSubmitter:
        """Where there is a single slot and trials keep it: what the screen's students rest on is
        made before there are any, and they themselves, which takes seconds, beside the driver."""
        if self._experiment.run.screen:
            self._scheduler_client.build(screen_student(self._experiment, {}).parents)
        backend = LocalBackend(self._experiment, self._library, self._dispatch)
        return LocalStageSubmitter(backend.build, ThreadPoolExecutor(1, "screen"))

    def node_usage(self) -> list[dict[str, Any]]:
        """The resources of each node, and those in use."""
        return node_usage()

    def dashboard_folder(self) -> Path | None:
        """The folder of logs on this node, which a cluster's dashboard shows."""
        return self._dashboard_folder

    def close(self) -> None:
        """Unregister from the scheduler and leave the cluster, or end the one started here."""
        self._scheduler_client.close()
        disconnect()
        if self._head_monitor:  # last: where the head is lost, the two above may never return
            self._head_monitor.close()

    def _make_tuner(self, searcher: GatedSearcher) -> tune.Tuner:
        experiment, goal = self._experiment, self._experiment.goals[0]
        trainable = tune.with_parameters(
            TrialTrainable, experiment=experiment, library=self._library.uri
        )
        resources = {"cpu": experiment.run.resources.cpu, "gpu": experiment.run.resources.gpu}
        return tune.Tuner(
            tune.with_resources(trainable, {k: v for k, v in resources.items() if v}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=make_scheduler(experiment, searcher.should_prune),
                metric=GOAL_METRIC,
                mode="max" if goal.maximize else "min",
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                **self._storage_options(),
                failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_RETRIES),
                # The library holds half-done students; Tune's checkpoints would repeat them.
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                verbose=0,
            ),
        )

    def _storage_options(self) -> dict[str, Any]:
        """Where Tune keeps its results: in a bucket with the library, else in the run's folder.

        An object store is handed over as it was opened: Tune's own reading of an address knows
        neither endpoint nor retries.
        """
        if not self._library.is_object_store:
            return {"name": "tune", "storage_path": str(self._folder)}
        filesystem, path = self._library.filesystem_at("tune")
        run_id = RunFolder(self._folder).id  # another run of this name may use the same library
        return {"name": run_id, "storage_path": path, "storage_filesystem": filesystem}


def _configure_tune(max_concurrent: int) -> None:
    """Tune reads these when it starts; its own tables and files would only repeat ours."""
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a failed trial has no metric: it ends, not Tune
        TUNE_MAX_PENDING_TRIALS_PG=str(max_concurrent),  # what an autoscaler sees as demand
        RAY_AIR_NEW_OUTPUT="0",
        # Tune's own looks for Ctrl-C between two steps, and one may wait ten minutes for a stage.
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",  # a lost worker is retried: its traceback only alarms
        # A search that waits for its first stages has no trial yet, and after half an hour Tune's
        # warning about that breaks on the missing one.
        TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S="inf",
        TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER="inf",
    )
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
