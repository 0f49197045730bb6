"""Latency of a part: measured once for each structure, shape and device, whoever uses it.

Weights do not matter, so no teacher and no data set is in the key: parts of the same layers for the
same feature are one measurement, also across teachers and searches.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

from torch import nn

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import Piece, head, outline, stem
from stillhouse.search.stages.core.stage import Bench, Product, Report, Stage, Work
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.config.base import canonical_json, fingerprint, knob
from stillhouse.spaces.latency import LatencySettings
from stillhouse.spaces.modules.cuts import narrowed, positions
from stillhouse.spaces.modules.network import Network, Shape, beside
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.stored_names import stored_name

LATENCIES = frozenset(("latency_ms", "latency_spread_ms"))
"""Figures of what is timed."""


class MeasureLatency(Work):
    """The latency of a teacher's stem, its head, or a replacement for a run of its blocks."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "latency"
    uses_data: ClassVar[bool] = False

    network: NetworkSpec = knob(..., "the teacher")
    shape: tuple[int, int, int] = knob(..., "of its images")
    classes: int = knob(..., "it tells apart", ge=1)
    part: Literal["stem", "piece", "head"] = knob(..., "what is measured")
    start: int = knob(0, "first block of a piece")
    stop: int = knob(0, "first block after it")
    block: BlockSpec | None = knob(None, "what takes their place")
    enter: float = knob(1.0, "share of the teacher's channels that enter", gt=0.0, le=1.0)
    leave: float = knob(1.0, "share of the teacher's channels that leave", gt=0.0, le=1.0)
    how: LatencySettings = knob(LatencySettings(), "how it is measured")

    @property
    def together(self) -> str:
        return canonical_json(self.how.plain())

    def identity(self) -> dict[str, Any]:
        told = self.model_copy(update={"how": LatencySettings()}).plain()
        structure, inputs = _structure(canonical_json(told))
        return {"structure": structure, "inputs": list(inputs), "how": self.how.identity()}

    def figures(self, stage: Stage) -> frozenset[str]:
        return LATENCIES

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        yield {"epoch": 1.0}
        teacher = self.network.build(self.shape, self.classes).eval()
        module, inputs = self._built(teacher, positions(teacher, self.shape))
        return Product({}, self.how.measure(module, inputs))

    def _built(self, teacher: Network, at: Mapping[int, Shape]) -> tuple[nn.Module, Shape]:
        """The part without anything learnt, and the shape of what enters it."""
        if self.part == "stem":
            return stem(teacher, at, self.leave), self.shape
        if self.part == "head":
            return head(teacher, at, self.enter), narrowed(at[max(at)], self.enter)
        assert self.block is not None
        piece = Piece(self.start, self.stop, self.block, self.enter, self.leave)
        return piece.build(teacher, at), narrowed(at[self.start], self.enter)


@lru_cache(maxsize=16384)
def _structure(told: str) -> tuple[str, Shape]:
    """Fingerprint of a part's layers and the sizes of its weights, and what enters it."""
    work = MeasureLatency.parse(json.loads(told))
    teacher, at = outline(canonical_json(work.network.plain()), work.shape, work.classes)
    with beside(teacher):
        module, inputs = work._built(teacher, at)
    layers = [[name, stored_name(m), m.extra_repr()] for name, m in module.named_modules()]
    sizes = [[name, list(t.shape), str(t.dtype)] for name, t in module.state_dict().items()]
    return fingerprint([layers, sizes]), inputs
