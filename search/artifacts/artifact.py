"""An artifact: the record and the tensors of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from stillhouse.search.artifacts.record import Record


@dataclass(frozen=True)
class Artifact:
    """The result of a stage in the library."""

    record: Record
    tensors: Mapping[str, Tensor]
