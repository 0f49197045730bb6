"""Published networks reach their published accuracy through this data path, to the last image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.spaces.networks import resolve
from stillhouse.spaces.weights import load_published, read_state

ROOT = os.environ.get("STILLHOUSE_TEST_DATA")
SETTINGS = {
    "source": "cifar10",
    "root": ROOT,
    # ImageNet's, with which these networks were trained.
    "normalise": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}


@pytest.mark.slow
@pytest.mark.skipif(
    ROOT is None, reason="STILLHOUSE_TEST_DATA names no folder with cifar10/ and teachers/"
)
@pytest.mark.parametrize(("depth", "published"), [(20, 91.73), (32, 92.63), (56, 93.39)])
def test_published_accuracy(
    depth: int, published: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path))
    dataset = open_data(DataConfig.parse(SETTINGS))
    _, family = resolve({f"resnet{depth}": {"shortcut": "A"}})
    path = Path(str(ROOT), "teachers", f"cifar10-resnet{depth}-option-a.safetensors")
    network = family.build(dataset.shape, dataset.classes)
    network = load_published(network, family, read_state(path), str(path))
    network = network.with_normalisation(dataset.mean, dataset.std)
    network = network.eval().to(memory_format=torch.channels_last)

    right = 0
    with torch.inference_mode():
        for batch in dataset.batches("test", batch_size=250, device="cpu"):
            said = network(batch.images, taps=()).logits.argmax(dim=1)
            right += int((said == batch.labels).sum())
    # The published figures are of 10,000 images; rounding on another device may turn two.
    assert abs(right - round(published * 100)) <= 2
    print(f"resnet{depth}: {right} of {dataset.facts.sizes['test']}")
