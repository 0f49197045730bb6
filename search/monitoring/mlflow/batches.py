"""Operations as MLflow's entities, cut to what it takes in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stillhouse.search.monitoring.mlflow.operations import SEARCH
from stillhouse.search.monitoring.mlflow.outbox import Operation

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag

_METRICS, _PARAMS, _TAGS = 800, 100, 50
_ALONE = ("end_others", "complete")
"""Operations that look at other runs, or at what MLflow has of their own."""


def by_run(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Operations in groups of one run; what stands alone waits for all before it."""
    groups: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation.get("do") in _ALONE:
            yield from groups.values()
            groups = {}
            yield [operation]
        else:
            groups.setdefault(operation.get("run", SEARCH), []).append(operation)
    yield from groups.values()


def merged(logs: Sequence[Operation]) -> tuple[list[Param], list[Metric], list[RunTag]]:
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


def batches(
    params: list[Param], metrics: list[Metric], tags: list[RunTag]
) -> Iterator[dict[str, Any]]:
    """The arguments of as many ``log_batch`` calls as are needed."""
    while params or metrics or tags:
        yield {"params": params[:_PARAMS], "metrics": metrics[:_METRICS], "tags": tags[:_TAGS]}
        params, metrics, tags = params[_PARAMS:], metrics[_METRICS:], tags[_TAGS:]


def dataset_input(operation: Operation) -> Any:
    """The data set of a ``dataset`` operation as a run's input."""
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
