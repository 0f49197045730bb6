"""Stored identities call layer classes as the first measured latencies did."""

import ast
from pathlib import Path

from torch import nn

from stillhouse.spaces import stored_names
from stillhouse.spaces.modules.layers import ConvUnit
from stillhouse.spaces.stored_names import stored_name

STORED = {
    *("spaces.blocks._site.Unit", "spaces.boundary.Narrow", "spaces.boundary.Widen"),
    *("spaces.classifier.Classifier", "spaces.layers.ConvUnit", "spaces.layers.ZeroPad"),
    *("spaces.layers.ResidualBlock", "spaces.layers.PreactivationBlock"),
    *("spaces.layers.InvertedResidual", "spaces.layers.GhostModule", "spaces.network.Network"),
    *("spaces.quantised.Rounding", "spaces.quantised.Quantised"),
    *("spaces.quantised.QuantisedConv", "spaces.quantised.QuantisedLinear"),
    *("spaces.subclasses.ClassLogits", "spaces.view.Look", "spaces.words.WordConv"),
    *("spaces.words.WordConvs", "spaces.words.MaxOverTime", "spaces.words.LSTM"),
}


def test_the_names_stay():
    tree = ast.parse(Path(stored_names.__file__).read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert strings >= STORED


def test_a_class_of_ours_has_its_stored_name():
    unit = ConvUnit.__new__(ConvUnit)
    assert stored_name(unit) == "spaces.layers.ConvUnit"


def test_a_class_of_torch_has_its_dotted_name():
    assert stored_name(nn.Linear(1, 1)) == "torch.nn.modules.linear.Linear"


def test_a_new_class_of_ours_may_move():
    class Layer(nn.Module):
        __module__ = "stillhouse.spaces.modules.anywhere"
        __qualname__ = "Layer"

    assert stored_name(Layer()) == "stillhouse.Layer"
