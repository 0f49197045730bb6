"""What frozen teachers said, kept for whoever asks the same again in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class Kept:
    """Tensors by key, the least recently used dropped first.

    Args:
        limit: bytes in all. A tensor larger than that is handed out and not kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor for ``key``, made now if it is not here."""
        if key in self._tensors:
            self._tensors.move_to_end(key)
            return self._tensors[key]
        tensor = make()
        if tensor.nbytes <= self.limit:
            self._tensors[key] = tensor
            self.bytes += tensor.nbytes
        while self.bytes > self.limit:
            _, oldest = self._tensors.popitem(last=False)
            self.bytes -= oldest.nbytes
        return tensor


LIMIT = 512 * 1024**2
"""Bytes on each kind of memory: the logits of 50,000 images, 100 classes and 26 views."""

SHARED = Kept(LIMIT)
"""Of teachers with a key: good for every stage and trial of this process."""
