"""What frozen teachers said, kept for whoever asks the same again in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class TensorCache:
    """Tensors by key, the least recently used dropped first.

    Args:
        limit: bytes in all. A tensor larger than that is handed out and not kept.
    """

    def __init__(self, limit: int) -> None:
        self.max_bytes = limit
        self.num_bytes = 0
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor for ``key``, made now if it is not here."""
        if key in self._tensors:
            self._tensors.move_to_end(key)
            return self._tensors[key]
        tensor = compute()
        if tensor.nbytes <= self.max_bytes:
            self._tensors[key] = tensor
            self.num_bytes += tensor.nbytes
        while self.num_bytes > self.max_bytes:
            _, oldest = self._tensors.popitem(last=False)
            self.num_bytes -= oldest.nbytes
        return tensor


MAX_CACHE_BYTES = 512 * 1024**2
"""Bytes on each kind of memory: the logits of 50,000 images, 100 classes and 26 views."""

PROCESS_CACHE = TensorCache(MAX_CACHE_BYTES)
"""Of teachers with a key: good for every stage and trial of this process."""
