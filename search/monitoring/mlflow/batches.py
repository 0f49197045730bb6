"""Converts operations to MLflow's entities, in batches within its limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stillhouse.search.monitoring.mlflow.operations import SEARCH_RUN
from stillhouse.search.monitoring.mlflow.outbox import OutboxEntry

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag

_MAX_METRICS, _MAX_PARAMS, _MAX_TAGS = 800, 100, 50
_UNBATCHED = ("end_others", "complete")
"""Operations that read runs from MLflow, so that all earlier ones must be sent first."""


def group_by_run(entries: Sequence[OutboxEntry]) -> Iterator[list[OutboxEntry]]:
    """Operations in groups of one run; an unbatched one comes after all before it."""
    groups: dict[str, list[OutboxEntry]] = {}
    for entry in entries:
        if entry.get("do") in _UNBATCHED:
            yield from groups.values()
            groups = {}
            yield [entry]
        else:
            groups.setdefault(entry.get("run", SEARCH_RUN), []).append(entry)
    yield from groups.values()


def merge_logs(logs: Sequence[OutboxEntry]) -> tuple[list[Param], list[Metric], list[RunTag]]:
    """The parameters, metrics and tags of several ``log`` operations of one run."""
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


def split_batches(
    params: list[Param], metrics: list[Metric], tags: list[RunTag]
) -> Iterator[dict[str, Any]]:
    """The arguments of each ``log_batch`` call."""
    while params or metrics or tags:
        yield {
            "params": params[:_MAX_PARAMS],
            "metrics": metrics[:_MAX_METRICS],
            "tags": tags[:_MAX_TAGS],
        }
        params, metrics, tags = params[_MAX_PARAMS:], metrics[_MAX_METRICS:], tags[_MAX_TAGS:]


def dataset_input(entry: OutboxEntry) -> Any:
    """The data set of a ``dataset`` operation as a run's input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # MLflow stores 36 characters of a digest; the source has the whole identity.
    digest = entry["digest"][:36]
    entity = Dataset(
        entry["name"],
        digest,
        source_type="stillhouse",
        source=entry["source"],
        profile=entry["profile"],
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
