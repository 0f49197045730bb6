"""MNIST (LeCun et al. 1998): 60,000 + 10,000 grey handwritten digits of 28x28."""

from __future__ import annotations

from torchvision import datasets

from stillhouse.methods.core.data.formats.published import PublishedSource
from stillhouse.methods.core.data.formats.torchvision_files import IdxFiles


class Mnist(PublishedSource):
    """MNIST, as idx files or Parquet files."""

    form = IdxFiles
    dataset = datasets.MNIST
    parquet_folder = "mnist"
    shape = (1, 28, 28)
    class_names = tuple("0123456789")
    mean = (0.1307,)
    std = (0.3081,)
