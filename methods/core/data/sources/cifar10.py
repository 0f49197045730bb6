"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour photographs of 32x32."""

from __future__ import annotations

from torchvision import datasets

from stillhouse.methods.core.data.formats.published import PublishedSource
from stillhouse.methods.core.data.formats.torchvision_files import PickledFiles


class Cifar10(PublishedSource):
    """CIFAR-10, as pickled batches or Parquet files."""

    form = PickledFiles
    dataset = datasets.CIFAR10
    parquet_folder = "cifar10"
    shape = (3, 32, 32)
    class_names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
