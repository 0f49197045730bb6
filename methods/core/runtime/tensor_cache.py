"""A cache for the outputs of frozen teachers, shared by all training in a process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class TensorCache:
    """Tensors by key; the least recently used one is dropped first.

    Args:
        limit: bytes in all. A larger tensor is returned and not cached.
    """

    def __init__(self, limit: int) -> None:
        self.max_bytes = limit
        self.num_bytes = 0
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor for ``key``, computed if it is not cached."""
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
"""Enough for the logits of 50,000 images, 100 classes and 26 views."""

PROCESS_CACHE = TensorCache(MAX_CACHE_BYTES)
"""The cache of teachers with a key, for all stages and trials of this process."""
