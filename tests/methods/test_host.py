"""No method makes the host wait for the device inside a step.

A wait is asked for by a few operations only: those that hand a number to Python, and those whose
result's shape depends on what a tensor holds. They are the same on every device, so a processor
shows them as well as a GPU would.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from methods.core.data.batch import Batch
from methods.core.method import Pair, Progress
from methods.core.objective import METHODS, Objective
from spaces.networks import resolve
from spaces.problem import ConfigError

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.equal,
    aten.is_nonzero,
    aten.bincount,
}


class Watch(TorchDispatchMode):
    """Notes every operation that would wait."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or func.overloadpacket in WAITING:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def network(name):
    return resolve(name)[1].build((3, 16, 16), 10)


@pytest.mark.parametrize("wait", [lambda x: x.item(), lambda x: x.nonzero(), lambda x: x[x > 0]])
def test_the_watch_sees_a_wait(wait):
    with Watch() as watch:
        wait(torch.ones(1))
    assert watch.seen


@pytest.mark.parametrize("name", METHODS.names())
def test_no_method_waits_in_a_step(name):
    torch.manual_seed(0)
    student, teacher = network("resnet8"), network("resnet14").requires_grad_(False).eval()
    images, labels = torch.rand(8, 3, 16, 16), torch.randint(0, 10, (8,))
    batch = Batch(images, labels, torch.arange(8))
    try:
        module = Objective.parse({name: {}}).build(Pair(student, [teacher], 10, 80, images))
    except ConfigError as error:
        pytest.skip(f"needs other networks: {error.problems[0].message}")
    with torch.no_grad():
        said = teacher(images, module.teacher_taps(0))
    said_by_student = student(images, module.student_taps())
    with Watch() as watch:
        loss, _ = module(said_by_student, [said], batch, Progress(0, 10, 3, 10, 0))
        loss.backward()
    assert watch.seen == []
