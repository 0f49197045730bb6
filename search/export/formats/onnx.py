"""ONNX, by torch's exporter: for onnxruntime, OpenVINO, TensorRT and other runtimes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.search.export.format import ExportSource, Format, Predictor


class Onnx(Format):
    """A graph with the input ``images`` and the output ``logits``, weights inside.

    A quantised network's are 8-bit integers, between QuantizeLinear and DequantizeLinear, from
    which runtimes make kernels for integers. All are unsigned: kernels of processors without VNNI
    add products of unsigned and signed bytes in 16 bits, which saturate (onnxruntime, "Quantize
    ONNX models", when to use reduce-range or U8U8).
    """

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    usage: ClassVar[str] = (
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("FILE")\n'
        'logits, = session.run(None, {"images": images})'
    )

    @classmethod
    def write(cls, source: ExportSource, file: Path) -> None:
        batch = {0: torch.export.Dim("batch")}
        with _silence_exporter():
            torch.onnx.export(
                source.network,
                (source.examples,),
                file,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=(batch,),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        _convert_to_unsigned(file)

    @classmethod
    def read(cls, file: Path) -> Predictor:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

        def predict(images: Tensor) -> Tensor:
            (logits,) = session.run(None, {"images": images.numpy()})
            return torch.from_numpy(logits)

        return predict


def _convert_to_unsigned(file: Path) -> None:
    """Shift every int8 of a graph and its zero point by 128: the same numbers, unsigned."""
    import onnx

    model = onnx.load(file)
    graph = model.graph
    signed = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    }
    if not signed:
        return
    shifted = {name: _shift_to_unsigned(tensor) for name, tensor in signed.items()}
    for node in graph.node:
        input_indices = {"QuantizeLinear": (2,), "DequantizeLinear": (0, 2)}.get(node.op_type, ())
        for index in input_indices:
            if node.input[index] in shifted:
                node.input[index] = shifted[node.input[index]].name
    used_names = {name for node in graph.node for name in node.input}
    initializers = [
        tensor for tensor in (*graph.initializer, *shifted.values()) if tensor.name in used_names
    ]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    del graph.value_info[:]  # types of what passes between the nodes: they follow from the graph
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def _shift_to_unsigned(tensor: Any) -> Any:
    import numpy
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(numpy.int16) + 128
    return numpy_helper.from_array(values.astype(numpy.uint8), f"{tensor.name}_unsigned")


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Silence the exporter, which logs every step and warns about its own libraries."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
