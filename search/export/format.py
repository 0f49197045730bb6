"""The base class of export formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.spaces.modules.classifier import Classifier

Predictor = Callable[[Tensor], Tensor]
"""Images [N, channels, height, width] in 0..1 -> logits [N, classes]."""


@dataclass(frozen=True)
class ExportSource:
    """The network to export, in evaluation mode on the CPU, with its artifact.

    ``examples`` holds two or more images. Quantised layers are made exportable."""

    network: Classifier
    examples: Tensor
    artifact: Artifact


class Format:
    """Writes a network to a file and runs that file; one module in ``formats`` each.

    The file's name is the format's and the ending of the files it writes.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """What must be installed besides torch; the extra ``export`` brings it."""
    usage: ClassVar[str] = ""
    """Python that runs a file called FILE on ``images``, a NumPy array float32."""

    @classmethod
    def missing_packages(cls) -> list[str]:
        """The packages that are not installed."""
        return [name for name in cls.packages if find_spec(name) is None]

    @classmethod
    def write(cls, source: ExportSource, file: Path) -> None:
        """Write the network for any number of images at once."""
        raise NotImplementedError

    @classmethod
    def read(cls, file: Path) -> Predictor:
        """A function that runs the written network on one CPU thread."""
        raise NotImplementedError
