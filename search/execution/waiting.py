"""A trial that waits for the stages it rests on, and makes one itself where nobody else can."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import NAMESPACE, this_node
from stillhouse.search.core.errors import Lost
from stillhouse.search.execution.builder import SAVE_EVERY, Missing, make, make_together
from stillhouse.search.execution.scheduler import foundry_name
from stillhouse.search.execution.takeover import Reply
from stillhouse.search.execution.tasks import reason, with_result
from stillhouse.search.execution.watchdog import Watchdog
from stillhouse.search.stages.core.stage import Stage

ASKED_AGAIN = 20
"""How often a trial asks for the stages of a foundry that was lost, a second apart."""


class StageFailed(Exception):
    """A stage that the trial rests on cannot be had; one line with its label and the reason."""


def await_stages(
    library: Library,
    stages: Iterable[Stage],
    watchdog: Watchdog,
    leaving: Callable[[], bool] = lambda: False,
) -> None:
    """Wait for stages that the library's foundry is making; at once where there is none.

    Where it is lost meanwhile its drivers set up another, which is waited for likewise. A stage
    for which no slot is free is made here, see :mod:`stillhouse.search.execution.takeover`.

    Args:
        library: where the stages will be.
        stages: what the trial rests on.
        watchdog: watches over a stage that is made here.
        leaving: whether this machine is about to be taken away.

    Raises:
        StageFailed: a stage failed.
        Lost: the library cannot be used.
    """
    wanted, asks_left = list(stages), 1
    while missing := [stage for stage in wanted if not library.has(stage.key)]:
        if not asks_left:  # nobody makes them: the trial does
            return
        asks_left -= 1
        foundry = _foundry(library)
        if foundry is not None:
            try:
                reply = _ask(foundry, missing)
                if reply.stages:
                    asks_left = ASKED_AGAIN
                    _make_here(foundry, reply, library, watchdog, leaving)
                    continue
            except RayActorError:
                asks_left = ASKED_AGAIN
        if asks_left:
            time.sleep(1.0)


def _foundry(library: Library) -> Any | None:
    """The library's foundry; none if there is none, or not yet."""
    try:
        return ray.get_actor(foundry_name(library), namespace=NAMESPACE)
    except ValueError:
        return None


def _ask(foundry: Any, missing: Sequence[Stage]) -> Reply:
    """Wait until the foundry has something to say of the stages.

    Raises:
        StageFailed: one of them failed.
    """
    here = ray.get_runtime_context()
    wish = (here.get_job_id(), list(missing), here.current_actor, this_node())
    reply: Reply = ray.get(foundry.wait.remote(*wish))
    if reply.failed:
        raise StageFailed(reply.failed)
    return reply


def _make_here(
    foundry: Any,
    reply: Reply,
    library: Library,
    watchdog: Watchdog,
    leaving: Callable[[], bool],
) -> None:
    """Make stages for the foundry, and report to it, until it does not want them any more."""
    making = _making(reply.stages, library, leaving)
    try:
        with watchdog:
            for said in making:
                watchdog.heard()
                if not ray.get(foundry.hear.remote(reply.ticket, said)):
                    return
    except RayActorError:  # the foundry is lost: another one says who goes on
        raise
    except Exception as error:
        ray.get(foundry.hear.remote(reply.ticket, _as_told(error)))
        if isinstance(error, Lost):
            raise
        if len(reply.stages) == 1 and not isinstance(error, Missing):
            raise StageFailed(f"{reply.stages[0].label}: {reason(error)}") from error
    finally:
        making.close()


def _making(stages: Sequence[Stage], library: Library, leaving: Callable[[], bool]) -> Any:
    if len(stages) == 1:
        return with_result(make(stages[0], library, SAVE_EVERY, leaving))
    return with_result(make_together(stages, library, SAVE_EVERY, leaving))


def _as_told(error: Exception) -> Exception:
    """An error that means the same to the foundry, and can be read in any process."""
    if isinstance(error, Missing | Lost):
        return error
    return RuntimeError(reason(error))
