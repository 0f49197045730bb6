"""The sender: turns operations into calls of MLflow's client, in one thread."""

from __future__ import annotations

import getpass
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.address import hushed
from search.tracking.client import first_line, open_experiment
from search.tracking.handles import Handles
from search.tracking.model import log_saved_model
from search.tracking.operations import SEARCH
from search.tracking.place import is_server
from search.tracking.spool import Operation
from spaces.problem import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

log = logging.getLogger(__name__)

# The rest (not reachable, busy, not allowed yet) may change, and waits.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}
_GONE = "RESOURCE_DOES_NOT_EXIST"
_METRICS, _PARAMS, _TAGS = 800, 100, 50


class Sender:
    """Sends operations of one search to one MLflow.

    Sending the same operations twice leaves the same runs. What MLflow refuses for good is
    written to ``refused.jsonl`` with its reason and does not hold up the rest.

    ``token`` is unlike that of any other search; runs carry it, so they can be found again.
    """

    def __init__(self, uri: str, name: str, token: str, folder: Path) -> None:
        self._uri = uri
        self._name = name
        self._token = token
        self._folder = folder
        self._handles = Handles(folder / "runs.jsonl", uri)
        self._refused = folder / "refused.jsonl"
        self._opened: tuple[MlflowClient, str] | None = None
        self._running: set[str] = set()

    def send(self, operations: Sequence[Operation]) -> None:
        """Send operations; those of one run that are neighbours go together.

        Raises:
            Exception: MLflow cannot be reached or has trouble; nothing is to be forgotten.
        """
        self._open()
        for group in _by_run(operations):
            self._deliver(group)

    def _open(self) -> tuple[MlflowClient, str]:
        if self._opened is None:
            self._opened = open_experiment(self._uri, self._name)
        return self._opened

    def _deliver(self, operations: Sequence[Operation], again: bool = False) -> None:
        try:
            self._perform(operations)
        except Exception as error:
            if getattr(error, "error_code", "") == _GONE and not again:
                # The database was replaced or cleaned up: look for everything anew.
                self._opened = None
                self._handles.doubt_all()
                self._deliver(operations, again=True)
            elif not self._is_refusal(error):
                raise
            elif len(operations) > 1:
                for operation in operations:
                    self._deliver([operation])
            else:
                self._opened = None
                self._open()  # raises if it is the whole experiment that takes nothing now
                self._set_aside(operations[0], error)

    def _is_refusal(self, error: Exception) -> bool:
        """Whether the same would happen again however often it is sent."""
        from mlflow.exceptions import MlflowException, RestException

        match error:
            case MlflowException(error_code="BAD_REQUEST") if is_server(self._uri):
                return isinstance(error, RestException)  # no proxy's error page
            case MlflowException(error_code=code):
                return code in {*_REFUSALS, _GONE}
            case FileNotFoundError():
                return True
            case OSError():  # the network's, or an upload too large for a proxy
                return getattr(getattr(error, "response", None), "status_code", 0) == 413
            case ConfigError():  # the experiment was deleted, and may be restored
                return False
        return isinstance(error, ValueError | TypeError | KeyError)

    def _set_aside(self, operation: Operation, error: Exception) -> None:
        log.warning("MLflow refused %s: %s", operation["do"], first_line(error))
        with self._refused.open("a") as lines:
            lines.write(json.dumps({"reason": hushed(str(error), self._uri), **operation}) + "\n")

    def _perform(self, operations: Sequence[Operation]) -> None:
        """The operations of one run, in order; logs between two other operations in one call."""
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
                client.log_inputs(run_id, [_dataset_input(operation)])
            case "text":
                client.log_text(run_id, operation["content"], operation["path"])
            case "files":
                for path in operation["paths"]:
                    client.log_artifact(run_id, str(self._folder.parent / path))
            case "model":
                log_saved_model(client, experiment, run_id, operation, self._folder, self._token)

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
        made = client.create_run(experiment, operation["at"], tags, title)
        self._running.add(made.info.run_id)
        return str(made.info.run_id)

    def _go_on(self, run_id: str, operation: Operation) -> None:
        """A run that exists runs (again)."""
        if run_id not in self._running:
            client, _ = self._open()
            client.update_run(run_id, "RUNNING")
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

        client, _ = self._open()
        params, metrics, tags = _merged(logs)
        try:
            for batch in _batches(params, metrics, tags):
                client.log_batch(run_id, **batch)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or not params:
                raise
            # Parameters are written once: a run that goes on keeps those it has.
            there = client.get_run(run_id).data.params
            new = [param for param in params if param.key not in there]
            if len(new) == len(params):
                raise
            for batch in _batches(new, metrics, tags):
                client.log_batch(run_id, **batch)


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):
        return {}  # a container's user without a name


def _by_run(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Operations in groups of one run; what looks at other runs waits for all before it."""
    groups: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation["do"] == "end_others":
            yield from groups.values()
            groups = {}
            yield [operation]
        else:
            groups.setdefault(operation["run"], []).append(operation)
    yield from groups.values()


def _merged(logs: Sequence[Operation]) -> tuple[list[Param], list[Metric], list[RunTag]]:
    from mlflow.entities import Metric, Param, RunTag

    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: list[Metric] = []
    for entry in logs:
        params |= entry["params"]
        tags |= entry["tags"]
        step, at = entry.get("step", 0), entry["at"]
        metrics += [Metric(key, value, at, step) for key, value in entry["metrics"].items()]
    return (
        [Param(key, value) for key, value in params.items()],
        metrics,
        [RunTag(key, value) for key, value in tags.items()],
    )


def _batches(
    params: list[Param], metrics: list[Metric], tags: list[RunTag]
) -> Iterator[dict[str, Any]]:
    """Cut to what MLflow takes in one call."""
    while params or metrics or tags:
        yield {"params": params[:_PARAMS], "metrics": metrics[:_METRICS], "tags": tags[:_TAGS]}
        params, metrics, tags = params[_PARAMS:], metrics[_METRICS:], tags[_TAGS:]


def _dataset_input(operation: Operation) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # MLflow keeps 36 characters of a digest; the source has what the whole was made from.
    digest = operation["digest"][:36]
    entity = Dataset(
        operation["name"],
        digest,
        source_type="stillhouse",
        source=operation["source"],
        profile=operation["profile"],
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
