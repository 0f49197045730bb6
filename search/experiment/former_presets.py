"""Removed presets, which files of earlier runs may still name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REMOVED_PRESETS = {
    "contrast": "tian2020",
    "factors": "kim2018_port",
    "flow": "tian2020",
    "instance_graph": "liu2019_port",
}
"""Method -> a removed preset, equal to the defaults of the method."""


def without_removed_presets(data: Any) -> Any:
    """Plain data of a run without removed presets."""
    if isinstance(data, list):
        return [without_removed_presets(item) for item in data]
    if not isinstance(data, Mapping):
        return data
    return {
        name: without_removed_presets(_without_removed_preset(name, value))
        for name, value in data.items()
    }


def _without_removed_preset(name: str, settings: Any) -> Any:
    """The settings of a method without its removed preset; other data unchanged."""
    removed_preset = REMOVED_PRESETS.get(name)
    if (
        removed_preset is None
        or not isinstance(settings, Mapping)
        or settings.get("preset") != removed_preset
    ):
        return settings
    return {key: value for key, value in settings.items() if key != "preset"}
