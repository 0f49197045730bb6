"""Class names from the metadata that data hubs write into Parquet files."""

from __future__ import annotations

import json
from typing import Any


def class_names(metadata: bytes, column: str) -> tuple[str, ...] | None:
    """The class names of ``column``; None if the metadata has none.

    Hubs write ``{"info": {"features": {COLUMN: {"names": [...]}}}}``; names may also be
    ``{"0": ..., "1": ...}``. JSON of other forms has no names.

    Args:
        metadata: JSON, the file's entry ``huggingface``.
    """
    try:
        node = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    for step in ("info", "features", column, "names"):
        node = node.get(step) if isinstance(node, dict) else None
    return _name_list(node)


def _name_list(names: Any) -> tuple[str, ...] | None:
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        if set(names) != set(numbers):
            return None
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names:
        return None
    return tuple(names) if all(isinstance(name, str) for name in names) else None
