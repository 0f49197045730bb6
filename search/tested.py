"""The test split: looked at when the choice has been made, and not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from methods.core.data.config import DataConfig
from methods.core.data.dataset import open_data
from methods.core.data.facts import facts
from methods.core.evaluation import evaluate
from search.assembly import rebuild
from search.library.record import Record
from search.make import pick_device
from search.stage import Artifact


def why_untested(data: DataConfig) -> str:
    """Why nothing can be measured on the test split of ``data``; empty where it can.

    Test labels that are kept to themselves, as -1, are refused where the data is opened.
    """
    name, _ = data.origin()
    return "" if facts(data).sizes["test"] else f"{name} has no test split"


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
