"""The sampler: hands Tune only trials whose prerequisites are in the library.

While a trial waits for its assistants it holds no processor and no GPU: the foundry's tasks use
them. The study asks ahead by as many configurations as run at once, so that there is always
something for the foundry to make and for Tune to run. What is screened goes through the foundry
before it is a trial at all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ray.tune.search import Searcher

from stillhouse.search.core.errors import Lost
from stillhouse.search.execution.client import Orders
from stillhouse.search.tuning.queue import Proposals
from stillhouse.search.tuning.recorder import Ledger
from stillhouse.search.tuning.scheduling import ENDED, GOAL
from stillhouse.search.tuning.study import Proposal


class Sampler(Searcher):
    """Tune's view of the study.

    Args:
        ledger: where trials are booked.
        orders: the foundry; none where there is a single slot, and every trial makes what it
            needs by itself, since nobody else could meanwhile.
        left: the configurations to try.
        concurrent: trials at once.
    """

    def __init__(
        self, ledger: Ledger, orders: Orders | None, left: Proposals, concurrent: int
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._orders = orders
        self._concurrent = concurrent
        self._left = left
        self._waiting: list[Proposal] = []
        self._running: dict[str, Proposal] = {}
        self._begun = False
        self._idle = ""
        self._last: dict[str, dict[str, float]] = {}
        self.lost: Lost | None = None
        """Why the search cannot go on; trials that end after it stay open for a resume."""

    @property
    def exhausted(self) -> bool:
        """Whether every trial there was to be has ended."""
        return self._left.exhausted and not (self._waiting or self._running)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial: None to be asked again soon, FINISHED when all were handed out.

        Raises:
            Lost: the library or the study cannot be used any more.
        """
        with self._losing():
            return self._suggested(trial_id)

    def _suggested(self, trial_id: str) -> Any:
        self._ask_ahead()
        if not self._waiting and self._left.exhausted:
            return Searcher.FINISHED
        if len(self._running) >= self._room():
            return None
        proposal = self._next_ready()
        if proposal is None:
            return self._idling(trial_id)
        self._begun = True
        self._running[trial_id] = proposal
        if self._orders is None:  # else the foundry's news says what was made and what was there
            self._ledger.found(proposal)
        self._ledger.started(proposal)
        return {"number": proposal.number, "values": dict(proposal.values)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self._running and not result.get(ENDED):
            figures = self._last[trial_id] = _figures(result)
            self._ledger.reported(self._running[trial_id].number, figures)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if trial_id == self._idle:
            self._idle = ""
        proposal = self._running.pop(trial_id, None)
        result = result or {}
        if proposal is None or self.lost:
            return
        with contextlib.suppress(Lost), self._losing():
            if "lost" in result:
                raise Lost("library", str(result["lost"]))
            self._book(trial_id, proposal, result, error)

    def _book(
        self, trial_id: str, proposal: Proposal, result: Mapping[str, Any], error: bool
    ) -> None:
        last = self._last.pop(trial_id, {})
        if "failed" in result:
            self._ledger.failed(proposal.number, str(result["failed"]))
        elif error:
            self._ledger.lost(proposal.number)
        elif "parameters" in result:
            self._ledger.reported(proposal.number, _figures(result))
            self._ledger.finished(proposal.number, _figures(result))
        else:
            figures = _figures(result) or last
            epoch = int(figures.get("epoch", 0))
            self._ledger.pruned(proposal.number, figures, f"stopped by scheduler at epoch {epoch}")

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """What is lost in one of Tune's questions ends the search at the next."""
        if self.lost:
            raise self.lost
        try:
            yield
        except Lost as lost:
            self.lost = lost
            raise

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is the state, and Tune's copy would go stale."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resumed search is a new Tune run on the same study."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for restores that never happen here."""
        return {}

    def _room(self) -> int:
        """Trials that may run now: stages being made go first, since others wait for them.

        Tune keeps one idle actor with its slot, so one trial may always run.
        """
        flying = self._orders.flying if self._orders else 0
        return max(1, self._concurrent - flying)

    def _ask_ahead(self) -> None:
        while len(self._waiting) < self._concurrent:
            proposal = self._left.next()
            if proposal is None:
                return
            self._waiting.append(proposal)
            if self._orders is not None:
                self._ledger.waiting(proposal)
                self._orders.place(proposal.recipe.prerequisites)

    def _next_ready(self) -> Proposal | None:
        busy = {proposal.recipe.student.key for proposal in self._running.values()}
        for proposal in list(self._waiting):
            stages = proposal.recipe.prerequisites
            failure = self._orders.failure(stages) if self._orders else ""
            if failure:
                self._waiting.remove(proposal)
                self._ledger.started(proposal)
                self._ledger.failed(proposal.number, failure)
            # The same student twice at once would be trained twice; the second is read instead.
            elif proposal.recipe.student.key not in busy and (
                self._orders is None or self._orders.ready(stages)
            ):
                self._waiting.remove(proposal)
                return proposal
        if self._begun and self._waiting and not self._running:
            # With nothing to run Tune stands still and all its idle actors keep their slots: those
            # for which the foundry may wait. So a trial waits in one of them, and Tune goes on.
            # If the foundry gets none of the others, that trial makes what it waits for itself.
            return self._waiting.pop(0)
        return None

    def _idling(self, trial_id: str) -> Any:
        """As above where all that there is is being screened: a trial of no configuration waits
        for one of those students, and the foundry gets the other slots."""
        stands_still = self._begun and not (self._waiting or self._running or self._idle)
        proposal = self._left.idle() if stands_still and self._orders else None
        if proposal is None:
            return None
        self._idle = trial_id
        return {"number": proposal.number, "values": dict(proposal.values), "idle": True}


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    """A trial's own numbers, without what Tune adds to every result."""
    return {
        name: float(value)
        for name, value in result.items()
        if name not in _TUNES_OWN
        and "/" not in name  # Tune's flattened config
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and (math.isfinite(value) or name.startswith(("val_", "train_")))
    }


_TUNES_OWN = frozenset(
    {
        GOAL,
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
