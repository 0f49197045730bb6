"""PyTorch's exported program (``torch.export``): a graph that needs only torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from stillhouse.search.export.format import ExportSource, Format, Predictor
from stillhouse.spaces.compression.quantised_layers import quantized_ops


class Pt2(Format):
    """An exported program; also what ``torch.compile`` and AOTInductor start from.

    A quantised network's weights are int8 in it, between torch's operators for quantising and
    dequantising, which are there once that part of torch is imported.
    """

    usage: ClassVar[str] = (
        "import torch\n"
        "import torch.ao.quantization.fx._decomposed  # operators of quantised networks\n"
        'network = torch.export.load("FILE").module()\n'
        "logits = network(torch.from_numpy(images))"
    )

    @classmethod
    def write(cls, source: ExportSource, file: Path) -> None:
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(source.network, (source.examples,), dynamic_shapes=(batch,))
        torch.export.save(program, file)

    @classmethod
    def read(cls, file: Path) -> Predictor:
        quantized_ops()
        network: Predictor = torch.export.load(file).module()
        return network
