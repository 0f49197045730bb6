"""Latency of a part as a stage: measured once per structure, input shape and device.

Weights do not matter, so the key contains no teacher and no data set. Parts with the same layers
and input shape share one measurement, also across teachers and searches.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

from torch import nn

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import (
    BlockReplacement,
    head_module,
    sketch_and_cuts,
    stem_module,
)
from stillhouse.search.core.metrics import DEVICE_METRICS
from stillhouse.search.stages.core.stage import (
    BatchOperation,
    EpochMetrics,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.config.base import canonical_json, fingerprint, setting
from stillhouse.spaces.latency import LatencySettings
from stillhouse.spaces.modules.cuts import cut_positions, narrowed_shape
from stillhouse.spaces.modules.network import Network, Shape, on_device_of
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.stored_names import stored_name

LATENCY_METRICS = frozenset(DEVICE_METRICS)
"""Metrics of a latency measurement."""


class MeasureLatency(BatchOperation):
    """Measure the stem or head of a teacher, or a replacement for an interval of its blocks."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "latency"
    uses_data: ClassVar[bool] = False

    network: NetworkSpec = setting(..., "the teacher")
    shape: tuple[int, int, int] = setting(..., "shape of its images [C, H, W]")
    classes: int = setting(..., "number of classes", ge=1)
    part: Literal["stem", "piece", "head"] = setting(..., "part to measure")
    start: int = setting(0, "first block of a piece")
    stop: int = setting(0, "first block after it")
    block: BlockSpec | None = setting(None, "block that replaces them")
    enter: float = setting(1.0, "input width, as a share of the teacher's channels", gt=0.0, le=1.0)
    leave: float = setting(
        1.0, "output width, as a share of the teacher's channels", gt=0.0, le=1.0
    )
    how: LatencySettings = setting(LatencySettings(), "how it is measured")

    @property
    def batch_key(self) -> str:
        return canonical_json(self.how.plain())

    def identity(self) -> dict[str, Any]:
        structure_json = self.model_copy(update={"how": LatencySettings()}).plain()
        structure_fingerprint, input_shape = _structure_fingerprint(canonical_json(structure_json))
        return {
            "structure": structure_fingerprint,
            "inputs": list(input_shape),
            "how": self.how.identity(),
        }

    def metric_names(self, stage: Stage) -> frozenset[str]:
        return LATENCY_METRICS

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        yield {"epoch": 1.0}
        teacher = self.network.build(self.shape, self.classes).eval()
        module, input_shape = self._build_part(teacher, cut_positions(teacher, self.shape))
        return StageResult({}, self.how.measure(module, input_shape))

    def _build_part(
        self, teacher: Network, cut_shapes: Mapping[int, Shape]
    ) -> tuple[nn.Module, Shape]:
        """The untrained part and its input shape."""
        if self.part == "stem":
            return stem_module(teacher, cut_shapes, self.leave), self.shape
        if self.part == "head":
            return head_module(teacher, cut_shapes, self.enter), narrowed_shape(
                cut_shapes[max(cut_shapes)], self.enter
            )
        assert self.block is not None
        replacement = BlockReplacement(self.start, self.stop, self.block, self.enter, self.leave)
        return replacement.build(teacher, cut_shapes), narrowed_shape(
            cut_shapes[self.start], self.enter
        )


@lru_cache(maxsize=16384)
def _structure_fingerprint(structure_json: str) -> tuple[str, Shape]:
    """Fingerprint of a part's layers and weight shapes, and its input shape."""
    operation = MeasureLatency.parse(json.loads(structure_json))
    teacher, cut_shapes = sketch_and_cuts(
        canonical_json(operation.network.plain()), operation.shape, operation.classes
    )
    with on_device_of(teacher):
        module, input_shape = operation._build_part(teacher, cut_shapes)
    layers = [
        [name, stored_name(submodule), submodule.extra_repr()]
        for name, submodule in module.named_modules()
    ]
    sizes = [
        [name, list(tensor.shape), str(tensor.dtype)]
        for name, tensor in module.state_dict().items()
    ]
    return fingerprint([layers, sizes]), input_shape
