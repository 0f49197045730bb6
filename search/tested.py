"""The test split: looked at when the choice has been made, and not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from methods.core.data.config import DataConfig
from methods.core.data.dataset import open_data
from methods.core.evaluation import evaluate
from search.assembly import rebuild
from search.library.record import Record
from search.make import pick_device
from search.stage import Artifact

_BATCH = 512


def why_untested(data: DataConfig) -> str:
    """Why nothing can be measured on the test split of ``data``; empty where it can."""
    known = open_data(data)
    if not known.facts.sizes["test"]:
        return "the data set has no test split"
    batches = known.batches("test", batch_size=_BATCH, device="cpu")
    # Published sets often keep the labels of their test split to themselves, and say -1.
    if any(int(batch.labels.min()) < 0 for batch in batches):
        return "the data set has no labels for its test split"
    return ""


def tested(
    records: Sequence[Record], data: DataConfig, opened: Callable[[str], Artifact]
) -> tuple[float, ...]:
    """Accuracy of each of these networks on the test split of ``data``.

    Args:
        opened: gives the artifact of a key.

    Raises:
        ConfigError: the data has no test split.
    """
    networks = (rebuild(opened(record.key)) for record in records)
    device = pick_device()
    scores = (evaluate(network, open_data(data), "test", device=device) for network in networks)
    return tuple(score["accuracy"] for score in scores)
