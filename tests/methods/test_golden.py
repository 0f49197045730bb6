"""A loss that changes must raise its method's version, or the library would serve stale results.

Where a change is meant: raise ``version`` in the method, then run this file as a program
(``python tests/methods/test_golden.py``), which writes ``golden.json`` anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.spaces.modules.heads import maps, stage_ends, with_linear_heads
from stillhouse.spaces.network_spec import NetworkSpec

FILE = Path(__file__).with_name("golden.json")
AT = Progress(epoch=3, epochs=10, step=1, steps_per_epoch=4, seed=5)


def filled(name: str, random: np.random.RandomState, subclasses: int):
    """A network whose every weight comes from NumPy's frozen streams."""
    network = (
        NetworkSpec.parse(name)
        .with_num_subclasses(subclasses)
        .build((3, 16, 16), 10)
        .double()
        .eval()
    )
    for key, value in network.state_dict().items():
        if value.is_floating_point() and "blocks" in key:
            drawn = torch.from_numpy(random.normal(size=tuple(value.shape)) * 0.2)
            value.copy_(drawn.abs() + 0.5 if "running_var" in key else drawn)
    return network


def headed(network, random: np.random.RandomState):
    """The network with heads on the ends of its stages."""
    like = NetworkSpec.parse("resnet14").build((3, 16, 16), 10)
    ends = stage_ends(maps(like, (3, 16, 16)))
    heads = with_linear_heads(like, (3, 16, 16), 10, ends).heads.double()
    for head in heads.parameters():
        head.data.copy_(torch.from_numpy(random.normal(size=tuple(head.shape)) * 0.02))
    return network.with_heads(dict(heads.items()))


def golden_loss(name: str) -> float:
    """The loss of a method with its defaults, on one fixed scene in float64."""
    random = np.random.RandomState(42)
    parts = (
        5 if METHODS.load(name).needs_subclasses else METHODS.load(name).Config().num_subclasses()
    )
    student, teacher = (filled(network, random, parts) for network in ("resnet8", "resnet14"))
    images = torch.from_numpy(random.uniform(size=(8, 3, 16, 16)))
    labels = torch.from_numpy(random.randint(0, 10, 8))
    if name == "heads":
        teacher = headed(teacher, random)
    pair = BuildContext(student, [teacher], 10, 50, images)
    module = Objective.parse({name: {}}).build(pair).double()
    for parameter in module.parameters():
        drawn = random.normal(size=tuple(parameter.shape)) * 0.2
        parameter.data.copy_(torch.from_numpy(drawn))
    with torch.no_grad():
        said = teacher(images, module.teacher_taps(0))
        mine = student(images, module.student_taps())
        batch = Batch(images, labels, torch.arange(8))
        return module(mine, [said], batch, AT)[0].item()


def recorded() -> dict[str, dict[str, float]]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


@pytest.mark.parametrize("name", METHODS.names())
def test_the_loss_is_the_one_that_this_version_had(name):
    assert name in recorded(), f"run this file as a program to record {name}"
    golden = recorded()[name]
    version = METHODS.load(name).version
    assert golden["version"] == version, "run this file as a program to record the new version"
    assert golden_loss(name) == pytest.approx(golden["loss"], rel=1e-7), (
        f"the loss of {name} changed: raise its version (now {version})"
    )


def test_nothing_is_recorded_of_methods_that_are_gone():
    assert set(recorded()) <= set(METHODS.names())


if __name__ == "__main__":
    golden = {
        name: {"version": METHODS.load(name).version, "loss": golden_loss(name)}
        for name in METHODS.names()
    }
    FILE.write_text(json.dumps(golden, indent=2) + "\n")
