"""The handwritten digits of scikit-learn: 1,797 grey images of 8x8, for trials without files.

They are the test part of the UCI set (Alpaydin and Kaynak 1998).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from stillhouse.methods.core.data.base.source import Images, Labels, Part, Source, SourceInfo
from stillhouse.methods.core.data.base.splits import array_digest, stratified_order

_TEST_SHARE = 0.2
_TEST_SEED = 1797


class Digits(Source):
    """Grey values 0..16 become 0..255. A fixed fifth is the test part; none was published."""

    def files(self) -> list[Path]:
        return []

    def fingerprint(self) -> str:
        return _fingerprint()

    def info(self) -> SourceInfo:
        return SourceInfo((1, 8, 8), tuple("0123456789"))

    def labels(self, part: Part) -> Labels:
        return _load()[1][_rows_of_part(part)]

    def image_chunks(self, part: Part) -> Iterator[Images]:
        yield _load()[0][_rows_of_part(part)]


@lru_cache(maxsize=1)
def _load() -> tuple[Images, Labels]:
    # Reads the file only: importing scikit-learn takes more than a second in every process.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",", dtype=np.uint8)
    grey = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)
    return grey.reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)


def _rows_of_part(part: Part) -> Labels:
    labels = _load()[1]
    order = stratified_order(labels, _TEST_SEED)
    tests = round(len(labels) * _TEST_SHARE)
    return np.sort(order[:tests] if part == "test" else order[tests:])


@lru_cache(maxsize=1)
def _fingerprint() -> str:
    images, labels = _load()
    return array_digest(images.ravel(), labels)
