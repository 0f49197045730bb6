"""Pixels: the images of one part, and how batches of them come to the device."""

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
    """uint8 images [N, H, W, C]: in memory or mapped, and once on each device that asks."""

    def __init__(self, images: NDArray[Any]) -> None:
        self.images = torch.from_numpy(images)
        self._resident: dict[torch.device, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.images.nbytes

    def on_device(self, device: torch.device) -> Tensor:
        """All images on ``device``, moved there at the first call; the CPU shares the mapping."""
        if device not in self._resident:
            self._resident[device] = self.images.to(device)
        return self._resident[device]

    def gather_batches(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        """The images of ``rows``, ``size`` at a time, from all images on the device."""
        images = self.on_device(device)
        for batch_rows in torch.split(rows.to(device), size):
            yield images.index_select(0, batch_rows)

    def stream_batches(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        """The same, read by a thread that is a few batches ahead; the device holds just those."""

        def load(some: Tensor) -> Tensor:
            batch = self.images.index_select(0, some)
            return batch.pin_memory() if device.type == "cuda" else batch

        for batch in _prefetch(load, torch.split(rows, size)):
            yield batch.to(device, non_blocking=True)


def _prefetch(load: Callable[[Tensor], Tensor], parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """``load`` of each part in order, each begun before it is wanted."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[Tensor]] = deque()
        for part in parts:
            pending.append(pool.submit(load, part))
            if len(pending) > _PREFETCHED_BATCHES:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
