"""Format: a form of file in which a network leaves, and which others can run."""

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
    """A network that leaves: in evaluation mode on the CPU, quantised layers sealed, with two or
    more ``examples`` of its images, and the artifact that it comes from."""

    network: Classifier
    examples: Tensor
    artifact: Artifact


class Format:
    """How to write a network, and how to run what was written; one file in ``formats`` each.

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
        """What runs the network that was written, on one thread of the CPU."""
        raise NotImplementedError
