"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey pictures of clothes, 28x28."""

from __future__ import annotations

from torchvision import datasets

from stillhouse.methods.core.data.formats.published import PublishedSource
from stillhouse.methods.core.data.formats.torchvision_files import IdxFiles


class FashionMnist(PublishedSource):
    """Fashion-MNIST, as idx files or Parquet files."""

    form = IdxFiles
    dataset = datasets.FashionMNIST
    parquet_folder = "fashion_mnist"
    shape = (1, 28, 28)
    class_names = tuple(datasets.FashionMNIST.classes)
    mean = (0.2860,)
    std = (0.3530,)
