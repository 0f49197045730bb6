"""The images of one part, and how batches of them get to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

_PREFETCHED_BATCHES = 4


class ImageStore:
    """uint8 images [N, H, W, C], in memory or mapped; each device has at most one copy."""

    def __init__(self, images: NDArray[Any]) -> None:
        self.images = torch.from_numpy(images)
        self._resident: dict[torch.device, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.images.nbytes

    def on_device(self, device: torch.device) -> Tensor:
        """All images on ``device``, copied at the first call; the CPU shares the mapping."""
        if device not in self._resident:
            self._resident[device] = self.images.to(device)
        return self._resident[device]

    def gather_batches(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        """The images of ``rows``, ``size`` at a time, from all images on the device."""
        images = self.on_device(device)
        for batch_rows in torch.split(rows.to(device), size):
            yield images.index_select(0, batch_rows)

    def stream_batches(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        """The same from a thread that reads a few batches ahead; only those are on the device."""

        def load(some: Tensor) -> Tensor:
            batch = self.images.index_select(0, some)
            return batch.pin_memory() if device.type == "cuda" else batch

        for batch in _prefetch(load, torch.split(rows, size)):
            yield batch.to(device, non_blocking=True)


def _prefetch(load: Callable[[Tensor], Tensor], parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """The results of ``load`` for each part in order, computed ahead by a thread."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[Tensor]] = deque()
        for part in parts:
            pending.append(pool.submit(load, part))
            if len(pending) > _PREFETCHED_BATCHES:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
