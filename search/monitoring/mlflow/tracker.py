"""The tracker: watches a search and has MLflow know of it, without ever holding it up."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stillhouse.search.core.addresses import kept
from stillhouse.search.core.durable import read_mapping, sync_tree, write_whole
from stillhouse.search.monitoring.events import Event
from stillhouse.search.monitoring.mlflow import operations as op
from stillhouse.search.monitoring.mlflow.client import client_settings
from stillhouse.search.monitoring.mlflow.errors import explain
from stillhouse.search.monitoring.mlflow.mapper import Diary, now
from stillhouse.search.monitoring.mlflow.model import check_name, save_classifier
from stillhouse.search.monitoring.mlflow.operations import SEARCH, trial_run
from stillhouse.search.monitoring.mlflow.outbox import Busy, Operation, Spool, waiting
from stillhouse.search.monitoring.mlflow.sender import Sender
from stillhouse.search.results.outcome import Outcome
from stillhouse.spaces.modules.network import Network

log = logging.getLogger(__name__)

FILE = "search.json"
"""Which search this is, and where MLflow is, for who sends what is left."""
GATHER = 0.5
"""Seconds for which operations gather, so that many of one run go in one call."""
_MOST = 500
_LONGEST_PAUSE = 30.0


class Tracker:
    """An observer of one search, whose state lies in ``folder``/tracking.

    An event is written to the spool there and the call returns; one thread sends what the
    spool holds, pauses while MLflow does not answer, and takes up what an earlier tracker on
    the same folder could not send. The same folder means the same runs.

    Args:
        uri: MLflow's, as :func:`stillhouse.search.monitoring.mlflow.locations.resolve_uri` gives
        it. name: of the search, and of its MLflow experiment. folder: the search's own. facts:
        where the search runs (versions, device, git): tags of its run. delay: seconds for which
        nothing is sent. MLflow's client keeps a processor busy for some
            when it is loaded, and a search that starts has better use for it.

    Raises:
        Busy: another process tracks a search in this folder.
    """

    def __init__(
        self, uri: str, name: str, folder: Path, facts: Mapping[str, str], delay: float = 0.0
    ) -> None:
        self._folder = folder.absolute()
        self._delay = delay
        self._uri = uri
        own = self._folder / "tracking"
        self._spool = Spool(own)
        self._diary = Diary(name, facts)
        self._sender = Sender(uri, name, _token(own, uri, name), own)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._wake.set()
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._append(self._diary.entries(event))

    @property
    def pending(self) -> int:
        """Operations that MLflow does not have yet."""
        return self._spool.pending

    @property
    def trouble(self) -> str:
        """Why nothing can be sent at present; "" while all is well."""
        return self._trouble

    def state(self) -> dict[str, Any]:
        """What MLflow lacks, for a status: how many operations are ``unsent`` and why
        (``trouble``), how many it ``refused`` for good, and why it did so last (``refusal``)."""
        refusals = self._sender.refusals
        told: dict[str, Any] = {"unsent": self.pending, "trouble": self.trouble}
        return told | {"refused": refusals.count, "refusal": refusals.reason}

    def log_outcome(
        self,
        outcome: Outcome,
        files: Sequence[Path],
        best: Mapping[str, float],
        winner: int | None = None,
    ) -> None:
        """The search's summary, the ``best`` trial's figures, and files as artifacts."""
        paths = [os.path.relpath(file.absolute(), self._folder) for file in files]
        self._append(self._diary.summary(outcome, paths, best, winner))

    def log_winner(
        self,
        network: Network,
        images: Tensor,
        *,
        name: str = "student",
        trial: int | None = None,
        classes: Sequence[str] = (),
        register: str | None = None,
    ) -> None:
        """The winner as an MLflow model on the search's run, or on a trial's.

        It is exported and saved in the folder before this returns (seconds), and stays there
        until MLflow has it.

        Args:
            images: two or more examples in 0..1, [N, channels, height, width], or word vectors.
            classes: names of the logits.
            register: also a version of this registered model, with the alias ``best``.

        Raises:
            ConfigError: ``register`` is no name for a model.
        """
        if register is not None:
            check_name(register)
        place = f"models/{name}-{uuid.uuid4().hex[:8]}"
        save_classifier(network, images, self._folder / "tracking" / place, classes)
        sync_tree(self._folder / "tracking" / place)
        run = SEARCH if trial is None else trial_run(trial)
        self._append([op.model(run, now(), place, name, register)])

    def close(self, timeout: float) -> int:
        """Send what is left for at most ``timeout`` seconds; returns how much could not be sent.

        That stays in the folder, for the next tracker there or for :func:`send_pending`.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        return self._spool.pending

    def _append(self, operations: Sequence[Operation]) -> None:
        self._spool.append(*operations)
        self._wake.set()

    def _work(self) -> None:
        self._closing.wait(self._delay)
        failures = 0
        while True:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()
            failures = 0 if self._send_all() else failures + 1
            if closing:
                break
            pause = min(2.0**failures, _LONGEST_PAUSE) if failures else GATHER
            self._closing.wait(pause)
            if failures:
                self._wake.set()
        self._spool.close()

    def _send_all(self) -> bool:
        try:
            drain(self._spool, self._sender)
        except Exception as error:
            # Whatever it is, the search goes on and the spool keeps what was to be sent.
            trouble = explain(error, self._uri)
            if trouble != self._trouble:
                log.warning("MLflow gets nothing at present: %s", trouble)
            self._trouble = trouble
            return False
        self._trouble = ""
        return True


def drain(spool: Spool, sender: Sender) -> None:
    """Send all that the spool holds.

    Raises:
        Exception: MLflow has trouble; what it has not got stays.
    """
    with client_settings():
        operations, end = spool.read(_MOST)
        while operations:
            sender.send(operations)
            spool.forget(len(operations), end)
            operations, end = spool.read(_MOST)


def send_pending(folder: Path) -> int:
    """Send what a search in ``folder`` could not; returns how many operations are still unsent.

    A search that is running sends them itself.
    """
    own = folder.absolute() / "tracking"
    if not (own / FILE).exists():
        return 0
    told = _noted(own)
    if told is None:
        log.warning("%s is damaged: what MLflow lacks is sent by a resume", own / FILE)
        return waiting(own)
    try:
        spool = Spool(own, patience=0)
    except Busy:
        return waiting(own)
    try:
        drain(spool, Sender(told["uri"], told["name"], told["token"], own))
    except Exception as error:
        log.warning("MLflow gets nothing at present: %s", explain(error, told["uri"]))
    finally:
        spool.close()
    return spool.pending


def tracked_at(folder: Path) -> str | None:
    """MLflow's URI as the tracker of an earlier launch noted it in a run's folder, if it did."""
    try:
        uri = (read_mapping(folder / "tracking" / FILE) or {}).get("uri")
    except OSError:
        return None
    return uri if isinstance(uri, str) else None


def _token(folder: Path, uri: str, name: str) -> str:
    """What tells this search from all others; the file lets ``send_pending`` go on alone."""
    path = folder / FILE
    told = _noted(folder)
    if told is None and path.exists():
        log.warning(
            "%s is damaged: MLflow's runs of this search that were left open stay so, and a run "
            "whose creation got no answer may be there twice",
            path,
        )
    token = told["token"] if told else uuid.uuid4().hex[:12]
    write_whole(path, json.dumps({"token": token, "uri": kept(uri), "name": name}))
    return token


def _noted(folder: Path) -> dict[str, str] | None:
    """What the file says; none if it is not there or damaged."""
    try:
        told = read_mapping(folder / FILE) or {}
    except FileNotFoundError:
        return None
    fields = {name: told.get(name) for name in ("token", "uri", "name")}
    whole = {name: value for name, value in fields.items() if isinstance(value, str)}
    return whole if whole.keys() == fields.keys() else None
