"""ONNX, by torch's exporter: for onnxruntime, OpenVINO, TensorRT and what else reads it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from search.format import Answers, Format, Leaving


class Onnx(Format):
    """A graph with the input ``images`` and the output ``logits``, weights inside.

    A quantised network's are int8, between QuantizeLinear and DequantizeLinear, from which
    runtimes make kernels for integers.
    """

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    usage: ClassVar[str] = (
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("FILE")\n'
        'logits, = session.run(None, {"images": images})'
    )

    @classmethod
    def write(cls, leaving: Leaving, file: Path) -> None:
        batch = {0: torch.export.Dim("batch")}
        with _quiet():
            torch.onnx.export(
                leaving.network,
                (leaving.examples,),
                file,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=(batch,),
                dynamo=True,
                external_data=False,
                verbose=False,
            )

    @classmethod
    def read(cls, file: Path) -> Answers:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

        def answers(images: Tensor) -> Tensor:
            (logits,) = session.run(None, {"images": images.numpy()})
            return torch.from_numpy(logits)

        return answers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of every step, and warns of what its own libraries do."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
