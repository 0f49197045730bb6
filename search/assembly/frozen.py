"""Cache of the frozen teachers of this process."""

from __future__ import annotations

from collections import OrderedDict

import torch

from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import load_network

# Frozen teachers stay on the device for the next stage of this process.
_TEACHER_CACHE: OrderedDict[tuple[str, str], FrozenTeacher] = OrderedDict()
_MAX_CACHED_TEACHERS = 8


def frozen_teacher(artifact: Artifact, device: torch.device) -> FrozenTeacher:
    """The network of a stage as a frozen teacher, from the cache if it is there."""
    cache_key = (artifact.record.key, str(device))
    if cache_key not in _TEACHER_CACHE:
        _TEACHER_CACHE[cache_key] = FrozenTeacher(
            load_network(artifact).to(device), artifact.record.key
        )
    _TEACHER_CACHE.move_to_end(cache_key)
    while len(_TEACHER_CACHE) > _MAX_CACHED_TEACHERS:
        _TEACHER_CACHE.popitem(last=False)
    return _TEACHER_CACHE[cache_key]
