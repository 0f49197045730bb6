"""Presets of earlier versions that are gone, as files of runs may still name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMER = {
    "contrast": "tian2020",
    "factors": "kim2018_port",
    "flow": "tian2020",
    "instance_graph": "liu2019_port",
}
"""Method -> a preset that said what the method's defaults say."""


def without_former(told: Any) -> Any:
    """A run's plain data in which a method without a preset stands for one with a former preset."""
    if isinstance(told, list):
        return [without_former(item) for item in told]
    if not isinstance(told, Mapping):
        return told
    return {name: without_former(_term(name, inner)) for name, inner in told.items()}


def _term(name: str, settings: Any) -> Any:
    """The settings of a method, less its former preset; anything else as it is."""
    former = FORMER.get(name)
    if former is None or not isinstance(settings, Mapping) or settings.get("preset") != former:
        return settings
    return {key: value for key, value in settings.items() if key != "preset"}
