"""``do: quantise``: a network whose layers compute with integers, and a fine-tuning as such."""

from __future__ import annotations

from typing import Literal

from methods.core.data.config import DataConfig
from methods.core.data.facts import facts
from methods.core.objective import Objective
from search.compressed import Compressed, Tuned, origin
from search.quantise import QuantiseNetwork
from search.stage import Stage
from spaces.config import knob
from spaces.domain import Choice
from spaces.quantising import check_quantisable


class Quantising(Tuned):
    """With how many bits it computes, and whether it is tuned as such."""

    how: Literal["ptq", "qat"] = knob(
        "qat",
        "ptq: as it is, after training; qat: and fine-tuned behind rounding",
        Choice(("ptq", "qat")),
    )
    bits: int = knob(8, "of each weight; what enters a layer has 8", Choice((8, 4)), ge=2, le=8)
    batches: int = knob(20, "training batches of 256 from which ranges are taken", ge=1)

    @property
    def tuning(self) -> Objective | None:
        return self.objective if self.how == "qat" else None


class Quantise(Quantising, Compressed):
    """An entry that quantises a network; it needs the packages of the extra ``compress``."""

    package = "torchao"

    def work(self, began: Stage, data: DataConfig) -> QuantiseNetwork:
        if (spec := origin(began)) is not None:
            about = facts(data)
            check_quantisable(spec.sketch(about.shape, about.classes))
        return QuantiseNetwork(bits=self.bits, batches=self.batches)
