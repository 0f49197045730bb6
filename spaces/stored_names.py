"""Names of layer classes in stored identities, independent of the present modules.

The latency of a part is stored under a fingerprint of its layers. The fingerprint contains the
dotted name of each class at the time of the first measurements. So measured latencies stay valid
when a class moves.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from stillhouse.spaces.blocks._site import BranchUnit
from stillhouse.spaces.compression.quantised_layers import (
    FakeQuantize,
    QuantisedConv,
    QuantisedLayer,
    QuantisedLinear,
)
from stillhouse.spaces.modules.classifier import Classifier
from stillhouse.spaces.modules.image_view import ViewTransform
from stillhouse.spaces.modules.layers import (
    ConvUnit,
    GhostModule,
    InvertedResidual,
    PreactivationBlock,
    ResidualBlock,
    ZeroPad,
)
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.modules.pca import PCAExpand, PCAProject
from stillhouse.spaces.modules.subclasses import ClassLogits
from stillhouse.spaces.modules.text_layers import LSTM, MaxOverTime, WordConv, WordConvs

_STORED: Mapping[type[nn.Module], str] = {
    BranchUnit: "spaces.blocks._site.Unit",
    PCAProject: "spaces.boundary.Narrow",
    PCAExpand: "spaces.boundary.Widen",
    Classifier: "spaces.classifier.Classifier",
    ConvUnit: "spaces.layers.ConvUnit",
    ZeroPad: "spaces.layers.ZeroPad",
    ResidualBlock: "spaces.layers.ResidualBlock",
    PreactivationBlock: "spaces.layers.PreactivationBlock",
    InvertedResidual: "spaces.layers.InvertedResidual",
    GhostModule: "spaces.layers.GhostModule",
    Network: "spaces.network.Network",
    FakeQuantize: "spaces.quantised.Rounding",
    QuantisedLayer: "spaces.quantised.Quantised",
    QuantisedConv: "spaces.quantised.QuantisedConv",
    QuantisedLinear: "spaces.quantised.QuantisedLinear",
    ClassLogits: "spaces.subclasses.ClassLogits",
    ViewTransform: "spaces.view.Look",
    WordConv: "spaces.words.WordConv",
    WordConvs: "spaces.words.WordConvs",
    MaxOverTime: "spaces.words.MaxOverTime",
    LSTM: "spaces.words.LSTM",
}


def stored_name(layer: nn.Module) -> str:
    """The name of a layer's class in stored identities.

    A class of this package that the table does not hold is stored without its module, which may
    change; any other class has its dotted name.
    """
    kind = type(layer)
    package = kind.__module__.partition(".")[0]
    module = package if package == "stillhouse" else kind.__module__
    return _STORED.get(kind, f"{module}.{kind.__qualname__}")
