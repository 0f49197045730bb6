"""Checkpointers for tests of training that resumes."""

from __future__ import annotations

import safetensors.torch
from torch import Tensor


class MemoryCheckpointer:
    """Stores the last checkpoint as the bytes of a safetensors file.

    Args:
        every: epochs between two checkpoints.
        only_at: the one epoch, counted from 1, after which it stores; None means ``every``.
        initial: the checkpoint to resume from.

    ``saved`` has the tensors of all checkpoints.
    """

    def __init__(
        self,
        *,
        every: int = 1,
        only_at: int | None = None,
        initial: dict[str, Tensor] | None = None,
    ) -> None:
        self.saved: list[dict[str, Tensor]] = []
        self._every, self._only_at, self._num_epochs = every, only_at, 0
        self._file = None if initial is None else safetensors.torch.save(initial)

    def load(self) -> dict[str, Tensor] | None:
        return None if self._file is None else safetensors.torch.load(self._file)

    def is_due(self) -> bool:
        self._num_epochs += 1
        if self._only_at is not None:
            return self._num_epochs == self._only_at
        return self._num_epochs % self._every == 0

    def save(self, tensors: dict[str, Tensor]) -> None:
        self.saved.append(tensors)
        self._file = safetensors.torch.save(tensors)
