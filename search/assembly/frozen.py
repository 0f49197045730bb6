"""Frozen teachers of this process, kept from one stage to the next."""

from __future__ import annotations

from collections import OrderedDict

import torch

from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import rebuild

# Frozen teachers stay on the device for the next trial of this worker.
_TEACHERS: OrderedDict[tuple[str, str], FrozenTeacher] = OrderedDict()
_MOST_TEACHERS = 8


def frozen(artifact: Artifact, device: torch.device) -> FrozenTeacher:
    """The network of a stage as a teacher; the last few of this process are kept."""
    place = (artifact.record.key, str(device))
    if place not in _TEACHERS:
        _TEACHERS[place] = FrozenTeacher(rebuild(artifact).to(device), artifact.record.key)
    _TEACHERS.move_to_end(place)
    while len(_TEACHERS) > _MOST_TEACHERS:
        _TEACHERS.popitem(last=False)
    return _TEACHERS[place]
