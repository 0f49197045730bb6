"""A trial that waits for the stages it needs, and builds one itself if no slot is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import NAMESPACE, current_node_name
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution.builder import MissingInput, build_messages
from stillhouse.search.execution.scheduler import scheduler_actor_name
from stillhouse.search.execution.takeover import WaitReply
from stillhouse.search.execution.tasks import task_error_line
from stillhouse.search.execution.watchdog import Watchdog
from stillhouse.search.stages.core.stage import Stage

REQUEST_ATTEMPTS = 20
"""Attempts, one second apart, to find a new stage scheduler after the first one is lost."""


class StageFailed(Exception):
    """A stage that the trial needs has failed; one line with its label and the reason."""


def await_stages(
    library: Library,
    stages: Iterable[Stage],
    watchdog: Watchdog,
    is_draining: Callable[[], bool] = lambda: False,
) -> None:
    """Wait for stages that the library's stage scheduler builds; return if there is no scheduler.

    If the scheduler is lost, this waits for the next one that the drivers start. If no slot is free
    for a stage, the trial builds it (see ``stillhouse.search.execution.takeover``).

    Args:
        library: receives the stages.
        stages: what the trial needs.
        watchdog: watches over a stage that is built here.
        is_draining: whether this machine is about to be taken away.

    Raises:
        StageFailed: a stage failed.
        StorageUnavailable: the library cannot be used.
    """
    needed, attempts_left = list(stages), 1
    while missing := [stage for stage in needed if not library.has(stage.key)]:
        if not attempts_left:  # nobody builds them: the trial does so later
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
    """The library's stage scheduler, if there is one."""
    try:
        return ray.get_actor(scheduler_actor_name(library), namespace=NAMESPACE)
    except ValueError:
        return None


def _wait_for_reply(scheduler: Any, missing: Sequence[Stage]) -> WaitReply:
    """Wait for the scheduler's reply about the stages.

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
    """Build stages and report to the scheduler, until it does not need them any more."""
    try:
        with watchdog:
            for message in build_messages(reply.stages, library, is_draining):
                watchdog.heartbeat()
                if not ray.get(scheduler.receive_report.remote(reply.ticket, message)):
                    return
    except RayActorError:  # the scheduler is lost: the next one decides who continues
        raise
    except Exception as error:
        ray.get(scheduler.receive_report.remote(reply.ticket, _portable_error(error)))
        if isinstance(error, StorageUnavailable):
            raise
        if len(reply.stages) == 1 and not isinstance(error, MissingInput):
            raise StageFailed(f"{reply.stages[0].label}: {task_error_line(error)}") from error


def _portable_error(error: Exception) -> Exception:
    """An error with the same meaning for the scheduler that every process can unpickle."""
    if isinstance(error, MissingInput | StorageUnavailable):
        return error
    return RuntimeError(task_error_line(error))
