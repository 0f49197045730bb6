"""The tracker: an observer that logs a search to MLflow without delaying it."""

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

from stillhouse.search.core.addresses import for_storage
from stillhouse.search.core.durable import read_json_mapping, sync_tree, write_atomically
from stillhouse.search.monitoring.events import Event
from stillhouse.search.monitoring.mlflow import operations as op
from stillhouse.search.monitoring.mlflow.client import client_settings
from stillhouse.search.monitoring.mlflow.errors import explain_error
from stillhouse.search.monitoring.mlflow.mapper import MlflowMapper, now_ms
from stillhouse.search.monitoring.mlflow.model import check_name, save_classifier
from stillhouse.search.monitoring.mlflow.operations import SEARCH_RUN, trial_run
from stillhouse.search.monitoring.mlflow.outbox import Busy, Outbox, OutboxEntry, count_pending
from stillhouse.search.monitoring.mlflow.sender import Sender
from stillhouse.search.results.outcome import Outcome
from stillhouse.spaces.modules.network import Network

log = logging.getLogger(__name__)

TRACKING_FILE = "search.json"
"""File with the search's token, name and MLflow URI, for ``send_pending``."""
BATCH_SECONDS = 0.5
"""Seconds between two sends, so that many operations of one run share a call."""
_MAX_BATCH = 500
_MAX_PAUSE = 30.0


class Tracker:
    """An observer of one search, with its state in ``folder``/tracking.

    A call writes the event to the outbox there and returns. One thread sends the outbox, backs off
    while MLflow does not respond, and also sends the rest of an earlier tracker on the same folder.
    Trackers on the same folder use the same MLflow runs.

    Args:
        uri: MLflow's, as returned by ``resolve_uri``.
        name: of the search, and of its MLflow experiment.
        folder: of the run.
        environment: versions, device and git revision, which become tags of the search's run.
        delay: seconds before the first send. Loading MLflow's client keeps a processor busy for
            seconds, which a starting search needs itself.

    Raises:
        Busy: another process tracks a search in this folder.
    """

    def __init__(
        self, uri: str, name: str, folder: Path, environment: Mapping[str, str], delay: float = 0.0
    ) -> None:
        self._folder = folder.absolute()
        self._delay = delay
        self._uri = uri
        tracking_folder = self._folder / "tracking"
        self._outbox = Outbox(tracking_folder)
        self._mapper = MlflowMapper(name, environment)
        self._sender = Sender(uri, name, _load_token(tracking_folder, uri, name), tracking_folder)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._send_loop, name="mlflow", daemon=True)
        self._wake.set()
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._append(self._mapper.entries(event))

    @property
    def num_pending(self) -> int:
        """Operations that MLflow does not have yet."""
        return self._outbox.num_pending

    @property
    def trouble(self) -> str:
        """Why nothing can be sent at present; "" if sending works."""
        return self._trouble

    def state(self) -> dict[str, Any]:
        """The state for the search's status.

        It has the number of ``unsent`` operations and the reason (``trouble``), and the number of
        permanently ``refused`` operations and the last reason (``refusal``).
        """
        refusals = self._sender.refusals
        state: dict[str, Any] = {"unsent": self.num_pending, "trouble": self.trouble}
        return state | {"refused": refusals.count, "refusal": refusals.reason}

    def log_outcome(
        self,
        outcome: Outcome,
        files: Sequence[Path],
        best_metrics: Mapping[str, float],
        winning_trial: int | None = None,
    ) -> None:
        """Log the search's summary, the metrics of the best trial, and files as artifacts."""
        paths = [os.path.relpath(file.absolute(), self._folder) for file in files]
        self._append(self._mapper.summary(outcome, paths, best_metrics, winning_trial))

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
        """Log the winner as an MLflow model on the search's run, or on that of ``trial``.

        The network is exported into the folder before this returns, which takes seconds. It stays
        there until MLflow has it.

        Args:
            network: the winner.
            images: two or more examples in 0..1, [N, channels, height, width], or word vectors.
            name: of the model.
            trial: number of the trial.
            classes: names of the logits.
            register: name of a registered model, which gets a version with the alias ``best``.

        Raises:
            ConfigError: ``register`` is not a valid name.
        """
        if register is not None:
            check_name(register)
        model_folder = f"models/{name}-{uuid.uuid4().hex[:8]}"
        save_classifier(network, images, self._folder / "tracking" / model_folder, classes)
        sync_tree(self._folder / "tracking" / model_folder)
        run = SEARCH_RUN if trial is None else trial_run(trial)
        self._append([op.model(run, now_ms(), model_folder, name, register)])

    def close(self, timeout: float) -> int:
        """Send the rest for at most ``timeout`` seconds; returns the number of unsent operations.

        These stay in the folder, for the next tracker there or for ``send_pending``.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        return self._outbox.num_pending

    def _append(self, entries: Sequence[OutboxEntry]) -> None:
        self._outbox.append(*entries)
        self._wake.set()

    def _send_loop(self) -> None:
        self._closing.wait(self._delay)
        failures = 0
        while True:
            self._wake.wait()
            self._wake.clear()
            is_closing = self._closing.is_set()
            failures = 0 if self._try_send() else failures + 1
            if is_closing:
                break
            pause = min(2.0**failures, _MAX_PAUSE) if failures else BATCH_SECONDS
            self._closing.wait(pause)
            if failures:
                self._wake.set()
        self._outbox.close()

    def _try_send(self) -> bool:
        try:
            send_outbox(self._outbox, self._sender)
        except Exception as error:
            # After any error the search continues, and the outbox keeps the operations.
            trouble = explain_error(error, self._uri)
            if trouble != self._trouble:
                log.warning("MLflow gets nothing at present: %s", trouble)
            self._trouble = trouble
            return False
        self._trouble = ""
        return True


def send_outbox(outbox: Outbox, sender: Sender) -> None:
    """Send all operations in the outbox.

    Raises:
        Exception: MLflow cannot be reached or fails; the unsent operations stay.
    """
    with client_settings():
        entries, end = outbox.read(_MAX_BATCH)
        while entries:
            sender.send(entries)
            outbox.mark_sent(len(entries), end)
            entries, end = outbox.read(_MAX_BATCH)


def send_pending(folder: Path) -> int:
    """Send the rest of a search in ``folder``; returns the number of unsent operations.

    A running search sends them itself.
    """
    tracking_folder = folder.absolute() / "tracking"
    if not (tracking_folder / TRACKING_FILE).exists():
        return 0
    saved = _read_tracking_file(tracking_folder)
    if saved is None:
        log.warning(
            "%s is damaged: what MLflow lacks is sent by a resume", tracking_folder / TRACKING_FILE
        )
        return count_pending(tracking_folder)
    try:
        outbox = Outbox(tracking_folder, lock_timeout=0)
    except Busy:
        return count_pending(tracking_folder)
    try:
        send_outbox(outbox, Sender(saved["uri"], saved["name"], saved["token"], tracking_folder))
    except Exception as error:
        log.warning("MLflow gets nothing at present: %s", explain_error(error, saved["uri"]))
    finally:
        outbox.close()
    return outbox.num_pending


def recorded_uri(folder: Path) -> str | None:
    """MLflow's URI of an earlier launch, as recorded in the run's folder; None if there is none."""
    try:
        uri = (read_json_mapping(folder / "tracking" / TRACKING_FILE) or {}).get("uri")
    except OSError:
        return None
    return uri if isinstance(uri, str) else None


def _load_token(folder: Path, uri: str, name: str) -> str:
    """The unique token of this search; its file has all that ``send_pending`` needs."""
    path = folder / TRACKING_FILE
    saved = _read_tracking_file(folder)
    if saved is None and path.exists():
        log.warning(
            "%s is damaged: MLflow's runs of this search that were left open stay so, and a run "
            "whose creation got no answer may be there twice",
            path,
        )
    token = saved["token"] if saved else uuid.uuid4().hex[:12]
    write_atomically(path, json.dumps({"token": token, "uri": for_storage(uri), "name": name}))
    return token


def _read_tracking_file(folder: Path) -> dict[str, str] | None:
    """The fields of the file; None if it is missing or damaged."""
    try:
        data = read_json_mapping(folder / TRACKING_FILE) or {}
    except FileNotFoundError:
        return None
    fields = {name: data.get(name) for name in ("token", "uri", "name")}
    strings = {name: value for name, value in fields.items() if isinstance(value, str)}
    return strings if strings.keys() == fields.keys() else None
