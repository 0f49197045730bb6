"""Sends operations to MLflow through its client, in one thread."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.search.core.addresses import for_display
from stillhouse.search.monitoring.mlflow.batches import (
    dataset_input,
    group_by_run,
    merge_logs,
    split_batches,
)
from stillhouse.search.monitoring.mlflow.client import open_experiment
from stillhouse.search.monitoring.mlflow.history import MetricHistory
from stillhouse.search.monitoring.mlflow.model import log_saved_model
from stillhouse.search.monitoring.mlflow.operations import SEARCH_RUN
from stillhouse.search.monitoring.mlflow.outbox import OutboxEntry
from stillhouse.search.monitoring.mlflow.refusals import NOT_FOUND_CODE, Refusals, is_refusal
from stillhouse.search.monitoring.mlflow.run_ids import RunIdMap

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

_END_TAGS = ("stillhouse.state", "stillhouse.reason", "stillhouse.stopped_by")
"""Tags about the end of a run; they are removed when the run continues."""


class Sender:
    """Sends the operations of one search to one MLflow store.

    Sending is idempotent: the same operations sent twice give the same runs, with one point a
    step. Operations that MLflow refuses permanently are set aside in ``refusals`` and do not block
    the others. ``token`` is unique to the search; runs have it in a tag, so they can be found.
    """

    def __init__(self, uri: str, name: str, token: str, folder: Path) -> None:
        self._uri = uri
        self._name = name
        self._token = token
        self._folder = folder
        self._run_ids = RunIdMap(folder / "runs.jsonl", uri)
        self._history = MetricHistory()
        self._experiment: tuple[MlflowClient, str] | None = None
        self._running_run_ids: set[str] = set()
        self.refusals = Refusals(folder, uri)

    def send(self, entries: Sequence[OutboxEntry]) -> None:
        """Send operations, grouped by run.

        Raises:
            Exception: MLflow cannot be reached or fails; all of them must be sent again.
        """
        self._open_experiment()
        for group in group_by_run(entries):
            self._send_group(group)

    def _open_experiment(self) -> tuple[MlflowClient, str]:
        if self._experiment is None:
            self._experiment = open_experiment(self._uri, self._name)
        return self._experiment

    def _send_group(self, entries: Sequence[OutboxEntry], is_retry: bool = False) -> None:
        try:
            self._apply_entries(entries)
        except Exception as error:
            if getattr(error, "error_code", "") == NOT_FOUND_CODE and not is_retry:
                # The database was replaced or cleaned up: look up all runs again.
                self._experiment = None
                self._run_ids.invalidate()
                self._history = MetricHistory()
                self._send_group(entries, is_retry=True)
            elif not is_refusal(error, self._uri):
                raise
            elif len(entries) > 1 and not self._deleted_run_message(entries[0]):
                for entry in entries:
                    self._send_group([entry])
            else:
                self._refuse(entries, error)

    def _refuse(self, entries: Sequence[OutboxEntry], error: Exception) -> None:
        self._experiment = None
        self._open_experiment()  # raises if the whole experiment is unusable
        self.refusals.add(entries, error, self._deleted_run_message(entries[0]))

    def _deleted_run_message(self, entry: OutboxEntry) -> str:
        """The message if the operation's run was deleted in MLflow; "" if it was not."""
        run = entry.get("run", SEARCH_RUN)
        run_id = self._run_ids.run_id(run)
        if run_id is None:
            return ""
        client, _ = self._open_experiment()
        if client.get_run(run_id).info.lifecycle_stage == "active":
            return ""
        remedy = (
            f"MLFLOW_TRACKING_URI={for_display(self._uri)} mlflow runs restore --run-id {run_id}"
        )
        return f"the run of {run} is deleted in MLflow; bring it back with `{remedy}`"

    def _apply_entries(self, entries: Sequence[OutboxEntry]) -> None:
        """Apply the operations of one run in order; consecutive logs are merged."""
        if missing := {"do", "run"} - entries[0].keys():
            raise ValueError(f"an entry lacks {', '.join(sorted(missing))}")
        if entries[0]["do"] == "complete":
            self._complete_run(entries[0])
            return
        run_id = self._ensure_run(entries[0])
        logs: list[OutboxEntry] = []
        for entry in entries:
            if entry["do"] == "log":
                logs.append(entry)
                continue
            self._log(run_id, logs)
            logs = []
            self._apply_entry(run_id, entry)
        self._log(run_id, logs)

    def _apply_entry(self, run_id: str, entry: OutboxEntry) -> None:
        client, experiment = self._open_experiment()
        match entry["do"]:
            case "begin":
                self._reopen_run(run_id, entry)
            case "end":
                client.set_terminated(run_id, entry["status"], entry["at"])
                self._running_run_ids.discard(run_id)
            case "end_others":
                self._end_running(entry)
            case "dataset":
                client.log_inputs(run_id, [dataset_input(entry)])
            case "text":
                client.log_text(run_id, entry["content"], entry["path"])
            case "files":
                for path in entry["paths"]:
                    client.log_artifact(run_id, str(self._folder.parent / path))
            case "model":
                log_saved_model(client, experiment, run_id, entry, self._folder, self._token)
            case unknown:
                raise ValueError(f"there is no operation {unknown!r}")

    def _complete_run(self, entry: OutboxEntry) -> None:
        """Apply the inner operations if the run exists and has not finished."""
        run = entry["run"]
        run_id = self._existing_run_id(run)
        client, _ = self._open_experiment()
        if run_id and client.get_run(run_id).info.status != "FINISHED":
            self._apply_entries(entry["operations"])

    def _ensure_run(self, entry: OutboxEntry) -> str:
        """The id of the operation's run, which is looked up by its tag or created if needed."""
        run = entry["run"]
        known_id = self._run_ids.run_id(run)
        if known_id:
            return known_id
        run_id = self._existing_run_id(run) or self._create_run(entry)
        self._run_ids.set_run_id(run, run_id)
        return run_id

    def _existing_run_id(self, run: str) -> str | None:
        """The known id, or that of a run which an attempt created without getting the response."""
        if not self._run_ids.is_uncertain(run):
            return self._run_ids.run_id(run)
        client, experiment = self._open_experiment()
        query = f"tags.`stillhouse.handle` = '{self._token}/{run}'"
        runs = client.search_runs([experiment], query, order_by=["attributes.start_time"])
        return str(runs[0].info.run_id) if runs else None

    def _create_run(self, entry: OutboxEntry) -> str:
        client, experiment = self._open_experiment()
        run = entry["run"]
        tags = {
            **entry.get("tags", {}),
            **_user_tag(),
            "mlflow.source.name": "stillhouse",
            "stillhouse.handle": f"{self._token}/{run}",
            "stillhouse.launch": self._token,
        }
        if run != SEARCH_RUN:
            parent: OutboxEntry = {"run": SEARCH_RUN, "at": entry["at"], "title": self._name}
            tags["mlflow.parentRunId"] = self._ensure_run(parent)
        self._run_ids.mark_creating(run)
        title = entry.get("title", run)
        run_id = str(client.create_run(experiment, entry["at"], tags, title).info.run_id)
        self._running_run_ids.add(run_id)
        self._history.mark_new(run_id)
        return run_id

    def _reopen_run(self, run_id: str, entry: OutboxEntry) -> None:
        """Set an existing run to RUNNING, and remove the tags about its end."""
        if run_id not in self._running_run_ids:
            client, _ = self._open_experiment()
            client.update_run(run_id, "RUNNING")
            for tag in set(_END_TAGS) & set(client.get_run(run_id).data.tags):
                client.delete_tag(run_id, tag)
            self._running_run_ids.add(run_id)
            self._log(run_id, [{**entry, "params": {}, "metrics": {}}])

    def _end_running(self, entry: OutboxEntry) -> None:
        client, experiment = self._open_experiment()
        parent = self._run_ids.run_id(SEARCH_RUN)
        query = f"tags.`stillhouse.launch` = '{self._token}' and attributes.status = 'RUNNING'"
        page_token = None
        open_ids = []
        while page_token != "":
            page = client.search_runs([experiment], query, page_token=page_token)
            open_ids += [run.info.run_id for run in page if run.info.run_id != parent]
            page_token = page.token or ""
        tags = {"stillhouse.state": "interrupted", "stillhouse.reason": entry["reason"]}
        for run_id in open_ids:
            self._log(run_id, [{**entry, "params": {}, "metrics": {}, "tags": tags}])
            client.set_terminated(run_id, "KILLED", entry["at"])
            self._running_run_ids.discard(run_id)

    def _log(self, run_id: str, logs: Sequence[OutboxEntry]) -> None:
        from mlflow.exceptions import MlflowException

        params, metrics, tags = merge_logs(logs)
        with self._forget_points_on_error(run_id):
            metrics = self._unsent_metrics(run_id, metrics)
            try:
                self._log_batches(run_id, params, metrics, tags)
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE" or not params:
                    raise
                # MLflow's parameters cannot change: a continued run keeps its own.
                client, _ = self._open_experiment()
                existing = client.get_run(run_id).data.params
                new_params = [param for param in params if param.key not in existing]
                if len(new_params) == len(params):
                    raise
                self._log_batches(run_id, new_params, metrics, tags)

    def _log_batches(
        self, run_id: str, params: list[Param], metrics: list[Metric], tags: list[RunTag]
    ) -> None:
        client, _ = self._open_experiment()
        for batch in split_batches(params, metrics, tags):
            client.log_batch(run_id, **batch)

    def _unsent_metrics(self, run_id: str, metrics: Sequence[Metric]) -> list[Metric]:
        """The metrics that MLflow does not have yet, one point a step."""
        client, _ = self._open_experiment()

        def fetch(key: str) -> list[Metric]:
            points: list[Metric] = client.get_metric_history(run_id, key)
            return points

        if run_id == self._run_ids.run_id(SEARCH_RUN):
            return self._history.next_steps(run_id, metrics, fetch)
        return self._history.new_steps(run_id, metrics, fetch)

    @contextlib.contextmanager
    def _forget_points_on_error(self, run_id: str) -> Iterator[None]:
        """Forget the known points of a run on an error, which leaves open what has arrived."""
        try:
            yield
        except Exception:
            self._history.forget(run_id)
            raise


def _user_tag() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):
        return {}  # a container's user may have no name
