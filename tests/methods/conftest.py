"""Small data and networks that the tests of the methods share."""

from __future__ import annotations

import pytest
import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset, open_data
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.networks import resolve


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def digits():
    """The embedded 8x8 digits, a few of them: ``digits(validation=0.0, augment=...)``."""

    def open_some(**settings) -> Dataset:
        settings = {"limit": 200, "validation": 0.2, **settings}
        return open_data(DataConfig.parse({"source": "digits", **settings}))

    return open_some


@pytest.fixture
def build():
    """A network by name, always the same weights: ``build("resnet8", seed=1)``."""

    def built(spec, shape=(1, 8, 8), classes=10, seed=0) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return resolve(spec)[1].build(shape, classes)

    return built


@pytest.fixture
def progress():
    """A place in training: ``progress(epoch=3)``."""

    def at(epoch=0, epochs=10, step=0, steps_per_epoch=5, seed=0) -> Progress:
        return Progress(epoch, epochs, step, steps_per_epoch, seed)

    return at


@pytest.fixture
def pair(build):
    """What a method is built with: ``pair(teachers=2)``."""

    def of(teachers=1, classes=10) -> BuildContext:
        student = build("cnn2", classes=classes).eval()
        taught = [build("cnn4", classes=classes, seed=i).eval() for i in range(teachers)]
        return BuildContext(student, taught, classes, 200, torch.rand(4, 1, 8, 8))

    return of
