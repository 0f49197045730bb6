"""Frozen teachers with folded batch norm; outputs for repeated images are cached."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.base.splits import Split
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.methods.core.runtime.folding import fold_batch_norm
from stillhouse.methods.core.runtime.precision import autocast
from stillhouse.methods.core.runtime.tensor_cache import MAX_CACHE_BYTES, PROCESS_CACHE, TensorCache
from stillhouse.spaces.modules.network import Network, Output

_BATCH_SIZE = 512
"""Images at a time for a pass over a whole split."""


@dataclass(frozen=True, eq=False)
class FrozenTeacher:
    """A trained network to learn from; it is copied at the first use and never changed.

    ``key`` identifies its weights (the key of its stage). With a key its outputs are cached for all
    training in this process, not only for one run.
    """

    network: Network
    key: str | None = None
    _copies: dict[torch.device, tuple[Network, Network]] = field(
        default_factory=dict, init=False, repr=False
    )

    def device_copies(self, sample: Tensor) -> tuple[Network, Network]:
        """Copies on the device of ``sample``: as trained, and with batch norm folded.

        Both are in eval mode, without gradients, channels last.
        """
        device = sample.device
        if device not in self._copies:
            original = copy.deepcopy(self.network).eval().requires_grad_(False)
            original = original.to(device).to(memory_format=torch.channels_last)
            folded_network = fold_batch_norm(original, sample).to(memory_format=torch.channels_last)
            self._copies[device] = (original, folded_network)
        return self._copies[device]


class Teachers:
    """The teachers of one run on its data.

    Their outputs are float32, without gradients. If the data's views repeat and no features are
    needed, a teacher runs once per view and its logits are cached.

    Args:
        data: the images.
        sample: a few images, [n, C, H, W] in 0..1, on the device of the run.
        dtype: the number format of the forward passes.
        communicator: the processes that share the images; all must make the same calls.
    """

    def __init__(
        self,
        teachers: Sequence[FrozenTeacher],
        data: Dataset,
        sample: Tensor,
        dtype: torch.dtype,
        communicator: Communicator = SINGLE_PROCESS,
    ) -> None:
        self._communicator = communicator
        self._data = data
        self._device = sample.device
        self._dtype = dtype
        copies = [teacher.device_copies(sample) for teacher in teachers]
        self.originals = [as_trained for as_trained, _ in copies]
        """The copies without folding, for methods that read weights or statistics."""
        self._folded = [folded for _, folded in copies]
        cache_scope = (data.fingerprint, str(self._device), str(dtype))
        private_cache = TensorCache(MAX_CACHE_BYTES)
        self._caches = [
            private_cache if teacher.key is None else PROCESS_CACHE for teacher in teachers
        ]
        self._cache_keys = [
            (teacher.key or str(i), *cache_scope) for i, teacher in enumerate(teachers)
        ]

    def __len__(self) -> int:
        return len(self._folded)

    def outputs(
        self, batch: Batch, epoch: int, taps: Callable[[int], Collection[str]] = lambda _: ()
    ) -> list[Output]:
        """The output of every teacher for a training batch of ``epoch``, without gradients.

        Args:
            taps: teacher number -> names of the blocks to return.
        """
        return [self._output(i, batch, epoch, taps(i)) for i in range(len(self))]

    def predicted_classes(self, split: Split) -> Tensor:
        """[N]: the class with the largest mean probability over the teachers, in order."""
        probabilities = [self._split_logits(i, split).softmax(dim=1) for i in range(len(self))]
        return torch.stack(probabilities).mean(dim=0).argmax(dim=1)

    def _output(self, i: int, batch: Batch, epoch: int, taps: Collection[str]) -> Output:
        if taps or not self._data.has_repeating_views:
            return self._run(i, batch.images, taps)
        logits = self._view_logits(i, self._data.view_of_epoch(epoch))
        return Output(logits.index_select(0, batch.indices), {})

    def _view_logits(self, i: int, view: int) -> Tensor:
        batches = self._data.view_batches(view, batch_size=_BATCH_SIZE, device=self._device)
        return self._cached_logits(i, ("view", view), batches)

    def _split_logits(self, i: int, split: Split) -> Tensor:
        batches = self._data.batches(split, batch_size=_BATCH_SIZE, device=self._device)
        return self._cached_logits(i, ("split", split), batches)

    def _cached_logits(self, i: int, subset: Hashable, batches: Iterator[Batch]) -> Tensor:
        def compute() -> Tensor:
            return torch.cat([self._run(i, batch.images).logits for batch in batches])

        return self._caches[i].get((self._cache_keys[i], subset), compute)

    def _run(self, i: int, images: Tensor, taps: Collection[str] = ()) -> Output:
        with torch.no_grad(), autocast(self._dtype, self._device):
            logits, features = self._communicator.forward_batch(self._folded[i], images, taps)
        return Output(logits.float(), features)
