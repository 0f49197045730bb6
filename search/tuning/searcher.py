"""The searcher gives Tune only trials whose prerequisites are in the library.

While a trial waits for its assistants it holds no processor and no GPU: the scheduler's tasks use
them. The study asks ahead by as many configurations as run at once, so that there is always
something for the scheduler to make and for Tune to run. What is screened goes through the scheduler
before it is a trial at all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ray.tune.search import Searcher

from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution.client import SchedulerClient
from stillhouse.search.tuning.attempt import GOAL_METRIC
from stillhouse.search.tuning.queue import ProposalQueue
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.scheduling import ENDED_KEY
from stillhouse.search.tuning.study import Proposal


class GatedSearcher(Searcher):
    """Tune's view of the study.

    Args:
        recorder: records the trials.
        scheduler_client: of the stage scheduler; None on a single slot, where every trial builds
            its own prerequisites.
        queue: the configurations to try.
        max_concurrent: trials at once.
    """

    def __init__(
        self,
        recorder: TrialRecorder,
        scheduler_client: SchedulerClient | None,
        queue: ProposalQueue,
        max_concurrent: int,
    ) -> None:
        super().__init__()
        self._recorder = recorder
        self._scheduler_client = scheduler_client
        self._max_concurrent = max_concurrent
        self._queue = queue
        self._waiting: list[Proposal] = []
        self._running: dict[str, Proposal] = {}
        self._has_started = False
        self._idle_trial_id = ""
        self._last_figures: dict[str, dict[str, float]] = {}
        self.storage_error: StorageUnavailable | None = None
        """Why the search cannot go on; trials that end after it stay open for a resume."""

    @property
    def is_exhausted(self) -> bool:
        """Whether every trial there was to be has ended."""
        return self._queue.is_exhausted and not (self._waiting or self._running)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial: None to be asked again soon, FINISHED when all were handed out.

        Raises:
            StorageUnavailable: the library or the study cannot be used any more.
        """
        with self._remembering_storage_error():
            return self._suggest(trial_id)

    def _suggest(self, trial_id: str) -> Any:
        self._fill_waiting()
        if not self._waiting and self._queue.is_exhausted:
            return Searcher.FINISHED
        if len(self._running) >= self._max_running():
            return None
        proposal = self._next_ready()
        if proposal is None:
            return self._suggest_idle(trial_id)
        self._has_started = True
        self._running[trial_id] = proposal
        if (
            self._scheduler_client is None
        ):  # else the scheduler's events say what was made and what was there
            self._recorder.announce_reused(proposal)
        self._recorder.record_start(proposal)
        return {"number": proposal.number, "values": dict(proposal.values)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self._running and not result.get(ENDED_KEY):
            figures = self._last_figures[trial_id] = _figures(result)
            self._recorder.record_report(self._running[trial_id].number, figures)

    def should_prune(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Give the study the goal's value of an epoch; returns whether it stops the trial now."""
        proposal = self._running.get(trial_id)
        if proposal is None or self.storage_error:
            return False
        with contextlib.suppress(StorageUnavailable), self._remembering_storage_error():
            self._recorder.record_goal(proposal.number, result)
            return self._recorder.study.should_prune(proposal.number)
        return False

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if trial_id == self._idle_trial_id:
            self._idle_trial_id = ""
        proposal = self._running.pop(trial_id, None)
        result = result or {}
        if proposal is None or self.storage_error:
            return
        with contextlib.suppress(StorageUnavailable), self._remembering_storage_error():
            if "lost" in result:
                raise StorageUnavailable("library", str(result["lost"]))
            self._record_end(trial_id, proposal, result, error)

    def _record_end(
        self, trial_id: str, proposal: Proposal, result: Mapping[str, Any], error: bool
    ) -> None:
        last_figures = self._last_figures.pop(trial_id, {})
        self._recorder.record_goal(proposal.number, result)
        if "failed" in result:
            self._recorder.record_failure(proposal.number, str(result["failed"]))
        elif error:
            self._recorder.record_lost_worker(proposal.number)
        elif "parameters" in result:
            self._recorder.record_report(proposal.number, _figures(result))
            self._recorder.record_finish(proposal.number, _figures(result))
        else:
            figures = _figures(result) or last_figures
            epoch = int(figures.get("epoch", 0))
            self._recorder.record_pruned(
                proposal.number, figures, f"stopped by scheduler at epoch {epoch}"
            )

    @contextlib.contextmanager
    def _remembering_storage_error(self) -> Iterator[None]:
        """A storage error during one call of Tune ends the search at the next call."""
        if self.storage_error:
            raise self.storage_error
        try:
            yield
        except StorageUnavailable as error:
            self.storage_error = error
            raise

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is the state, and Tune's copy would go stale."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resumed search is a new Tune run on the same study."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for restores that never happen here."""
        return {}

    def _max_running(self) -> int:
        """Trials that may run now: stages being made go first, since others wait for them.

        Tune keeps one idle actor with its slot, so one trial may always run.
        """
        num_in_flight = self._scheduler_client.num_in_flight if self._scheduler_client else 0
        return max(1, self._max_concurrent - num_in_flight)

    def _fill_waiting(self) -> None:
        while len(self._waiting) < self._max_concurrent:
            proposal = self._queue.next()
            if proposal is None:
                return
            self._waiting.append(proposal)
            if self._scheduler_client is not None:
                self._recorder.record_waiting(proposal)
                self._scheduler_client.submit(proposal.graph.prerequisites)

    def _next_ready(self) -> Proposal | None:
        running_students = {proposal.graph.student.key for proposal in self._running.values()}
        for proposal in list(self._waiting):
            stages = proposal.graph.prerequisites
            failure = (
                self._scheduler_client.failure_reason(stages) if self._scheduler_client else ""
            )
            if failure:
                self._waiting.remove(proposal)
                self._recorder.record_start(proposal)
                self._recorder.record_failure(proposal.number, failure)
            # The same student twice at once would be trained twice; the second is read instead.
            elif proposal.graph.student.key not in running_students and (
                self._scheduler_client is None or self._scheduler_client.all_built(stages)
            ):
                self._waiting.remove(proposal)
                return proposal
        if self._has_started and self._waiting and not self._running:
            # With nothing to run Tune stands still and all its idle actors keep their slots: those
            # for which the scheduler may wait. So a trial waits in one of them, and Tune goes on.
            # If the scheduler gets none of the others, that trial makes what it waits for itself.
            return self._waiting.pop(0)
        return None

    def _suggest_idle(self, trial_id: str) -> Any:
        """A trial without a configuration, while every proposal is being screened. It waits for a
        screening student, and the scheduler gets the other slots."""
        is_stalled = self._has_started and not (
            self._waiting or self._running or self._idle_trial_id
        )
        proposal = self._queue.undecided() if is_stalled and self._scheduler_client else None
        if proposal is None:
            return None
        self._idle_trial_id = trial_id
        return {"number": proposal.number, "values": dict(proposal.values), "idle": True}


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    """A trial's own numbers, without what Tune adds to every result."""
    return {
        name: float(value)
        for name, value in result.items()
        if name not in _TUNE_KEYS
        and "/" not in name  # Tune's flattened config
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and (math.isfinite(value) or name.startswith(("val_", "train_")))
    }


_TUNE_KEYS = frozenset(
    {
        GOAL_METRIC,
        "timestamp",
        "training_iteration",
        "time_this_iter_s",
        "time_total_s",
        "time_since_restore",
        "iterations_since_restore",
        "timesteps_total",
        "episodes_total",
        "timesteps_since_restore",
        "pid",
    }
)
