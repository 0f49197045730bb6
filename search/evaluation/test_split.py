"""Test accuracy, measured only after the search has chosen its students."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.assembly.network import load_network
from stillhouse.search.execution.builder import pick_device


def test_accuracies(
    records: Sequence[Record], data: DataConfig, open_artifact: Callable[[str], Artifact]
) -> tuple[float, ...]:
    """Accuracy of each of these networks on the test split of ``data``.

    Args:
        open_artifact: gives the artifact of a key.

    Raises:
        ConfigError: the data has no test split.
    """
    networks = (load_network(open_artifact(record.key)) for record in records)
    device = pick_device()
    scores = (evaluate(network, open_data(data), "test", device=device) for network in networks)
    return tuple(score["accuracy"] for score in scores)
