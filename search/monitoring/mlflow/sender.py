"""The sender: turns operations into calls of MLflow's client, in one thread."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.search.core.addresses import shown
from stillhouse.search.monitoring.mlflow.batches import batches, by_run, dataset_input, merged
from stillhouse.search.monitoring.mlflow.client import open_experiment
from stillhouse.search.monitoring.mlflow.history import MetricHistory
from stillhouse.search.monitoring.mlflow.model import log_saved_model
from stillhouse.search.monitoring.mlflow.operations import SEARCH
from stillhouse.search.monitoring.mlflow.outbox import Operation
from stillhouse.search.monitoring.mlflow.refusals import GONE, Refusals, is_refusal
from stillhouse.search.monitoring.mlflow.run_ids import Handles

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

_ENDED = ("stillhouse.state", "stillhouse.reason", "stillhouse.stopped_by")
"""Tags that say how a run ended: untrue once it goes on."""


class Sender:
    """Sends operations of one search to one MLflow.

    Sending the same operations twice leaves the same runs, with one point a step. What MLflow
    refuses for good is put aside (``refusals``) and does not hold up the rest.

    ``token`` is unlike that of any other search; runs carry it, so they can be found again.
    """

    def __init__(self, uri: str, name: str, token: str, folder: Path) -> None:
        self._uri = uri
        self._name = name
        self._token = token
        self._folder = folder
        self._handles = Handles(folder / "runs.jsonl", uri)
        self._history = MetricHistory()
        self._opened: tuple[MlflowClient, str] | None = None
        self._running: set[str] = set()
        self.refusals = Refusals(folder, uri)

    def send(self, operations: Sequence[Operation]) -> None:
        """Send operations; those of one run that are neighbours go together.

        Raises:
            Exception: MLflow cannot be reached or has trouble; nothing is to be forgotten.
        """
        self._open()
        for group in by_run(operations):
            self._deliver(group)

    def _open(self) -> tuple[MlflowClient, str]:
        if self._opened is None:
            self._opened = open_experiment(self._uri, self._name)
        return self._opened

    def _deliver(self, operations: Sequence[Operation], again: bool = False) -> None:
        try:
            self._perform(operations)
        except Exception as error:
            if getattr(error, "error_code", "") == GONE and not again:
                # The database was replaced or cleaned up: look for everything anew.
                self._opened = None
                self._handles.doubt_all()
                self._history = MetricHistory()
                self._deliver(operations, again=True)
            elif not is_refusal(error, self._uri):
                raise
            elif len(operations) > 1 and not self._deleted(operations[0]):
                for operation in operations:
                    self._deliver([operation])
            else:
                self._put_aside(operations, error)

    def _put_aside(self, operations: Sequence[Operation], error: Exception) -> None:
        self._opened = None
        self._open()  # raises if it is the whole experiment that takes nothing now
        self.refusals.add(operations, error, self._deleted(operations[0]))

    def _deleted(self, operation: Operation) -> str:
        """What to say of the operation's run if it was deleted in MLflow; "" if it was not."""
        run = operation.get("run", SEARCH)
        run_id = self._handles.known(run)
        if run_id is None:
            return ""
        client, _ = self._open()
        if client.get_run(run_id).info.lifecycle_stage == "active":
            return ""
        remedy = f"MLFLOW_TRACKING_URI={shown(self._uri)} mlflow runs restore --run-id {run_id}"
        return f"the run of {run} is deleted in MLflow; bring it back with `{remedy}`"

    def _perform(self, operations: Sequence[Operation]) -> None:
        """The operations of one run, in order; logs between two other operations in one call."""
        if missing := {"do", "run"} - operations[0].keys():
            raise ValueError(f"an entry lacks {', '.join(sorted(missing))}")
        if operations[0]["do"] == "complete":
            self._complete(operations[0])
            return
        run_id = self._run(operations[0])
        logs: list[Operation] = []
        for operation in operations:
            if operation["do"] == "log":
                logs.append(operation)
                continue
            self._log(run_id, logs)
            logs = []
            self._other(run_id, operation)
        self._log(run_id, logs)

    def _other(self, run_id: str, operation: Operation) -> None:
        client, experiment = self._open()
        match operation["do"]:
            case "begin":
                self._go_on(run_id, operation)
            case "end":
                client.set_terminated(run_id, operation["status"], operation["at"])
                self._running.discard(run_id)
            case "end_others":
                self._end_others(operation)
            case "dataset":
                client.log_inputs(run_id, [dataset_input(operation)])
            case "text":
                client.log_text(run_id, operation["content"], operation["path"])
            case "files":
                for path in operation["paths"]:
                    client.log_artifact(run_id, str(self._folder.parent / path))
            case "model":
                log_saved_model(client, experiment, run_id, operation, self._folder, self._token)
            case unknown:
                raise ValueError(f"there is no operation {unknown!r}")

    def _complete(self, operation: Operation) -> None:
        """Perform what the operation holds, if it has a run that has not finished."""
        run = operation["run"]
        run_id = self._handles.known(run)
        if run_id is None and self._handles.doubtful(run):
            run_id = self._find(run)
        client, _ = self._open()
        if run_id and client.get_run(run_id).info.status != "FINISHED":
            self._perform(operation["operations"])

    def _run(self, operation: Operation) -> str:
        """The id of the operation's run: known, found by its tag, or made."""
        run = operation["run"]
        known = self._handles.known(run)
        if known:
            return known
        found = self._find(run) if self._handles.doubtful(run) else None
        run_id = found or self._create(operation)
        self._handles.learn(run, run_id)
        return run_id

    def _find(self, run: str) -> str | None:
        """Whether an earlier attempt, of which no answer arrived, made the run."""
        client, experiment = self._open()
        wanted = f"tags.`stillhouse.handle` = '{self._token}/{run}'"
        runs = client.search_runs([experiment], wanted, order_by=["attributes.start_time"])
        return str(runs[0].info.run_id) if runs else None

    def _create(self, operation: Operation) -> str:
        client, experiment = self._open()
        run = operation["run"]
        tags = {
            **operation.get("tags", {}),
            **_user(),
            "mlflow.source.name": "stillhouse",
            "stillhouse.handle": f"{self._token}/{run}",
            "stillhouse.launch": self._token,
        }
        if run != SEARCH:
            parent: Operation = {"run": SEARCH, "at": operation["at"], "title": self._name}
            tags["mlflow.parentRunId"] = self._run(parent)
        self._handles.attempt(run)
        title = operation.get("title", run)
        run_id = str(client.create_run(experiment, operation["at"], tags, title).info.run_id)
        self._running.add(run_id)
        self._history.created(run_id)
        return run_id

    def _go_on(self, run_id: str, operation: Operation) -> None:
        """A run that exists runs (again): how it had ended is true no more."""
        if run_id not in self._running:
            client, _ = self._open()
            client.update_run(run_id, "RUNNING")
            for tag in set(_ENDED) & set(client.get_run(run_id).data.tags):
                client.delete_tag(run_id, tag)
            self._running.add(run_id)
            self._log(run_id, [{**operation, "params": {}, "metrics": {}}])

    def _end_others(self, operation: Operation) -> None:
        client, experiment = self._open()
        parent = self._handles.known(SEARCH)
        wanted = f"tags.`stillhouse.launch` = '{self._token}' and attributes.status = 'RUNNING'"
        token = None
        left = []
        while token != "":
            page = client.search_runs([experiment], wanted, page_token=token)
            left += [run.info.run_id for run in page if run.info.run_id != parent]
            token = page.token or ""
        tags = {"stillhouse.state": "interrupted", "stillhouse.reason": operation["reason"]}
        for run_id in left:
            self._log(run_id, [{**operation, "params": {}, "metrics": {}, "tags": tags}])
            client.set_terminated(run_id, "KILLED", operation["at"])
            self._running.discard(run_id)

    def _log(self, run_id: str, logs: Sequence[Operation]) -> None:
        from mlflow.exceptions import MlflowException

        params, metrics, tags = merged(logs)
        with self._uncertain_until_sent(run_id):
            metrics = self._unsent(run_id, metrics)
            try:
                self._log_batches(run_id, params, metrics, tags)
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE" or not params:
                    raise
                # Parameters are written once: a run that goes on keeps those it has.
                client, _ = self._open()
                there = client.get_run(run_id).data.params
                new = [param for param in params if param.key not in there]
                if len(new) == len(params):
                    raise
                self._log_batches(run_id, new, metrics, tags)

    def _log_batches(
        self, run_id: str, params: list[Param], metrics: list[Metric], tags: list[RunTag]
    ) -> None:
        client, _ = self._open()
        for batch in batches(params, metrics, tags):
            client.log_batch(run_id, **batch)

    def _unsent(self, run_id: str, metrics: Sequence[Metric]) -> list[Metric]:
        """The metrics that MLflow lacks: one point a step."""
        client, _ = self._open()

        def fetch(key: str) -> list[Metric]:
            found: list[Metric] = client.get_metric_history(run_id, key)
            return found

        if run_id == self._handles.known(SEARCH):
            return self._history.next_steps(run_id, metrics, fetch)
        return self._history.new_steps(run_id, metrics, fetch)

    @contextlib.contextmanager
    def _uncertain_until_sent(self, run_id: str) -> Iterator[None]:
        """An error leaves open which points have arrived."""
        try:
            yield
        except Exception:
            self._history.forget(run_id)
            raise


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):
        return {}  # a container's user without a name
