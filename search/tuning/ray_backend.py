"""Ray Tune: connects to a cluster, and has a search's trials run on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import connect, head_address, logs_folder
from stillhouse.search.cluster.head import Head
from stillhouse.search.cluster.nodes import check_nodes, check_stores, roll
from stillhouse.search.execution.client import Orders
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import Resources
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.experiment.workers import check_room
from stillhouse.search.monitoring.dispatcher import Announcer
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.local_backend import Inline
from stillhouse.search.tuning.proxy_screen import Bench, Here, proposals
from stillhouse.search.tuning.recorder import Ledger
from stillhouse.search.tuning.scheduling import GOAL, scheduler
from stillhouse.search.tuning.searcher import Sampler
from stillhouse.search.tuning.trial import Trial
from stillhouse.spaces.config.problems import ConfigError, Problem

LOST_WORKERS = 3
"""How often a trial whose worker was lost is started again."""


def slots(resources: Resources, growing_to: int = 0) -> int:
    """How many trials the cluster can run at once.

    Args:
        resources: of one trial.
        growing_to: how many it could run if it grew, as the user says: Ray knows the nodes that
            are there, not those that an autoscaler would bring once trials ask for them.

    Raises:
        ConfigError: not one fits on any node, and nobody says that others will come.
    """
    nodes = _alive()
    fitting = [_fits(node, resources) for node in nodes]
    if sum(fitting) or growing_to:
        return max(sum(fitting), growing_to)
    largest = ", ".join(
        f"{node.get('CPU', 0):g} cpu and {node.get('GPU', 0):g} gpu" for node in nodes
    )
    message = (
        f"a trial asks for {resources.cpu:g} cpu and {resources.gpu:g} gpu, "
        f"but the nodes of this cluster have {largest}; ask for less, or set run.concurrent where "
        "nodes come when they are asked for"
    )
    raise ConfigError([Problem("run.resources", message)])


def several(resources: Resources, growing_to: int) -> bool:
    """Whether more than one machine works on the search, or will where the cluster grows."""
    nodes = _alive()
    return len(nodes) > 1 or growing_to > sum(_fits(node, resources) for node in nodes)


def _alive() -> list[dict[str, Any]]:
    """The resources of each node that is there."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in found if node["Alive"]]


def _fits(node: dict[str, float], resources: Resources) -> int:
    room = [node.get("CPU", 0.0) / resources.cpu]
    if resources.gpu:
        room.append(node.get("GPU", 0.0) / resources.gpu)
    return int(min(room) + 1e-6)


class OnRay:
    """Makes stages in the foundry and runs trials with Tune, on the cluster at ``address``.

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
        announce: Announcer,
        folder: Path,
        address: str | None,
        stores: Mapping[str, str] | None = None,
        gone: Callable[[str], None] | None = None,
    ) -> None:
        # Workers read neither store, and need no password of theirs.
        self._experiment = replace(experiment, tracking=None, study=None)
        self._library = library
        self._announce = announce
        self._folder = folder
        connect(address)
        self._board = logs_folder() if address else None
        try:
            growing_to = (experiment.run.concurrent or 0) if address else 0
            if address and several(experiment.run.resources, growing_to):
                check_stores(stores or {})
            if address:
                check_nodes(library.uri, library.mark, library.remove_file)
            self._slots = slots(experiment.run.resources, growing_to)
            check_room(experiment, self._slots)
        except ConfigError:
            ray.shutdown()
            raise
        run = experiment.run
        self._concurrent = run.concurrent or self._slots
        self._orders = Orders(library, run.resources, announce, run.hang_after, self._concurrent)
        head = head_address() if address else None
        self._head = Head(head, gone) if head and gone else None

    def make(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Make stages and all they rest on; returns key -> reason for those that failed."""
        return self._orders.make(stages)

    def search(self, ledger: Ledger, trials: int) -> bool:
        """Run the trials that are left. Returns whether the search ended by itself.

        Raises:
            Lost: the library or the study cannot be used any more.
        """
        self._make_ahead()
        concurrent = self._concurrent
        # On a single slot nobody could make a stage while a trial's idle actor keeps the slot.
        orders = self._orders if self._slots > 1 else None
        bench = orders or self._bench_here()
        left = proposals(self._experiment, ledger, self._library, bench, trials, concurrent)
        sampler = Sampler(ledger, orders, left, concurrent)
        if not sampler.exhausted:
            _quiet(concurrent)
            try:
                self._tuner(sampler).fit()
            except Exception:
                if sampler.lost is None:
                    raise
            if sampler.lost:
                raise sampler.lost from None
        return sampler.exhausted

    def _make_ahead(self) -> None:
        """A student of several workers, where nothing is searched: its trial finds it made, as
        none can be started inside a trial."""
        if not self._experiment.search:
            student = self._experiment.recipe().student
            if student.work.workers > 1:
                self._orders.make([student])

    def _bench_here(self) -> Bench:
        """Where there is a single slot and trials keep it: what the screen's students rest on is
        made before there are any, and they themselves, which takes seconds, beside the driver."""
        if self._experiment.run.screen:
            self._orders.make(screen_student(self._experiment, {}).parents)
        shop = Inline(self._experiment, self._library, self._announce)
        return Here(shop.make, ThreadPoolExecutor(1, "screen"))

    def nodes(self) -> list[dict[str, Any]]:
        """What each node has, and what of it is taken."""
        return roll()

    def board(self) -> Path | None:
        """The folder of logs on this node, which a cluster's dashboard shows."""
        return self._board

    def close(self) -> None:
        """Stop wanting anything, and leave the cluster (or end the one started here)."""
        self._orders.close()
        ray.shutdown()
        if self._head:  # last: where the head is lost, the two above may never return
            self._head.close()

    def _tuner(self, sampler: Sampler) -> tune.Tuner:
        experiment, goal = self._experiment, self._experiment.goals[0]
        trainable = tune.with_parameters(Trial, experiment=experiment, library=self._library.uri)
        wish = {"cpu": experiment.run.resources.cpu, "gpu": experiment.run.resources.gpu}
        return tune.Tuner(
            tune.with_resources(trainable, {k: v for k, v in wish.items() if v}),
            tune_config=tune.TuneConfig(
                search_alg=sampler,
                scheduler=scheduler(experiment),
                metric=GOAL,
                mode="max" if goal.maximize else "min",
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                **self._storage(),
                failure_config=tune.FailureConfig(max_failures=LOST_WORKERS),
                # The library holds half-done students; Tune's checkpoints would repeat them.
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                verbose=0,
            ),
        )

    def _storage(self) -> dict[str, Any]:
        """Where Tune keeps its results: in a bucket with the library, else in the run's folder.

        An object store is handed over as it was opened: Tune's own reading of an address knows
        neither endpoint nor retries.
        """
        if not self._library.in_one_step:
            return {"name": "tune", "storage_path": str(self._folder)}
        system, path = self._library.place_of("tune")
        run = RunFolder(self._folder).id  # another run of this name may use the same library
        return {"name": run, "storage_path": path, "storage_filesystem": system}


def _quiet(concurrent: int) -> None:
    """Tune reads these when it starts; its own tables and files would only repeat ours."""
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a failed trial has no metric: it ends, not Tune
        TUNE_MAX_PENDING_TRIALS_PG=str(concurrent),  # what an autoscaler sees as demand
        RAY_AIR_NEW_OUTPUT="0",
        # Tune's own looks for Ctrl-C between two steps, and one may wait ten minutes for a stage.
        TUNE_DISABLE_SIGINT_HANDLER="1",
        # A search that waits for its first stages has no trial yet, and after half an hour Tune's
        # warning about that breaks on the missing one.
        TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S="inf",
        TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER="inf",
    )
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
