"""An artifact: the record of a stage and the tensors that it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from stillhouse.search.artifacts.record import Record


@dataclass(frozen=True)
class Artifact:
    """What a stage left in the library: its record and its tensors."""

    record: Record
    tensors: Mapping[str, Tensor]
