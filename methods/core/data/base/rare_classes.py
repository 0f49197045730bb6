"""Examples of rare classes that stay in the training split."""

from __future__ import annotations

from functools import lru_cache

from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.base.splits import rows_kept_for_training


@lru_cache(maxsize=64)
def rare_training_rows(
    source: Source, _content_fingerprint: str, validation: float, seed: int
) -> tuple[int, ...]:
    """The rows of :func:`rows_kept_for_training` in the training part, cached per process.

    Args:
        _content_fingerprint: of the source, so that changed files are read again.

    Raises:
        ConfigError: a file is damaged; the message names it.
    """
    if not validation:
        return ()
    return tuple(rows_kept_for_training(source.labels("train"), validation, seed).tolist())
