"""A trial that waits for the stages it rests on, and makes one itself where nobody else can."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import NAMESPACE, current_node_name
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution.builder import (
    SAVE_INTERVAL_S,
    MissingInput,
    build_batch,
    build_stage,
)
from stillhouse.search.execution.scheduler import scheduler_actor_name
from stillhouse.search.execution.takeover import WaitReply
from stillhouse.search.execution.tasks import task_error_line, yield_with_result
from stillhouse.search.execution.watchdog import Watchdog
from stillhouse.search.stages.core.stage import Stage

REQUEST_ATTEMPTS = 20
"""How often a trial asks for the stages of a foundry that was lost, a second apart."""


class StageFailed(Exception):
    """A stage that the trial rests on cannot be had; one line with its label and the reason."""


def await_stages(
    library: Library,
    stages: Iterable[Stage],
    watchdog: Watchdog,
    is_draining: Callable[[], bool] = lambda: False,
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
    needed, attempts_left = list(stages), 1
    while missing := [stage for stage in needed if not library.has(stage.key)]:
        if not attempts_left:  # nobody makes them: the trial does
            return
        attempts_left -= 1
        scheduler = _find_scheduler(library)
        if scheduler is not None:
            try:
                reply = _wait_for_reply(scheduler, missing)
                if reply.stages:
                    attempts_left = REQUEST_ATTEMPTS
                    _build_for_scheduler(scheduler, reply, library, watchdog, is_draining)
                    continue
            except RayActorError:
                attempts_left = REQUEST_ATTEMPTS
        if attempts_left:
            time.sleep(1.0)


def _find_scheduler(library: Library) -> Any | None:
    """The library's foundry; none if there is none, or not yet."""
    try:
        return ray.get_actor(scheduler_actor_name(library), namespace=NAMESPACE)
    except ValueError:
        return None


def _wait_for_reply(scheduler: Any, missing: Sequence[Stage]) -> WaitReply:
    """Wait until the foundry has something to say of the stages.

    Raises:
        StageFailed: one of them failed.
    """
    context = ray.get_runtime_context()
    arguments = (context.get_job_id(), list(missing), context.current_actor, current_node_name())
    reply: WaitReply = ray.get(scheduler.wait_for_stages.remote(*arguments))
    if reply.failure:
        raise StageFailed(reply.failure)
    return reply


def _build_for_scheduler(
    scheduler: Any,
    reply: WaitReply,
    library: Library,
    watchdog: Watchdog,
    is_draining: Callable[[], bool],
) -> None:
    """Make stages for the foundry, and report to it, until it does not want them any more."""
    build = _start_build(reply.stages, library, is_draining)
    try:
        with watchdog:
            for message in build:
                watchdog.heartbeat()
                if not ray.get(scheduler.receive_report.remote(reply.ticket, message)):
                    return
    except RayActorError:  # the foundry is lost: another one says who goes on
        raise
    except Exception as error:
        ray.get(scheduler.receive_report.remote(reply.ticket, _portable_error(error)))
        if isinstance(error, StorageUnavailable):
            raise
        if len(reply.stages) == 1 and not isinstance(error, MissingInput):
            raise StageFailed(f"{reply.stages[0].label}: {task_error_line(error)}") from error
    finally:
        build.close()


def _start_build(stages: Sequence[Stage], library: Library, is_draining: Callable[[], bool]) -> Any:
    if len(stages) == 1:
        return yield_with_result(build_stage(stages[0], library, SAVE_INTERVAL_S, is_draining))
    return yield_with_result(build_batch(stages, library, SAVE_INTERVAL_S, is_draining))


def _portable_error(error: Exception) -> Exception:
    """An error that means the same to the foundry, and can be read in any process."""
    if isinstance(error, MissingInput | StorageUnavailable):
        return error
    return RuntimeError(task_error_line(error))
