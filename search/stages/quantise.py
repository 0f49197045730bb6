"""``do: quantise``: a network with integer arithmetic, and quantisation-aware fine-tuning."""

from __future__ import annotations

from typing import Literal

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.expansion.compression import (
    CompressionConfig,
    FineTuningConfig,
    original_spec,
)
from stillhouse.search.stages.ops.quantise import QuantiseNetwork
from stillhouse.spaces.compression.quantisation import check_quantisable
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice


class QuantisingConfig(FineTuningConfig):
    """Settings of quantisation and of the fine-tuning."""

    how: Literal["ptq", "qat"] = setting(
        "qat",
        "ptq: after training; qat: and fine-tuned with fake quantisation",
        Choice(("ptq", "qat")),
    )
    bits: int = setting(
        8, "bits of each weight; inputs of a layer have 8", Choice((8, 4)), ge=2, le=8
    )
    batches: int = setting(
        20, "training batches of 256 that calibrate the ranges of activations", ge=1
    )

    @property
    def fine_tuning_objective(self) -> Objective | None:
        return self.objective if self.how == "qat" else None


class Quantise(QuantisingConfig, CompressionConfig):
    """An entry that quantises a network; needs the extra ``compress``."""

    required_package = "torchao"

    def compression_operation(self, start_stage: Stage, data: DataConfig) -> QuantiseNetwork:
        if (spec := original_spec(start_stage)) is not None:
            about = facts(data)
            check_quantisable(spec.build_for_shapes(about.shape, about.classes))
        return QuantiseNetwork(bits=self.bits, batches=self.batches)
