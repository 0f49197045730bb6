"""Typed readers of the descriptions in a record: its data, environment, network and assembly.

Records carry no version of their form. A field that joined later has a default here, which says how
earlier records are read; fields that no reader needs are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

Plain = Mapping[str, Any]


class Description(BaseModel):
    """Base of the readers; it takes the stored mapping."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class DataDescription(Description):
    """The data that a stage learnt from; ``shape`` is channels, height, width."""

    shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...] = ()
    sizes: dict[str, int] = {}


class Environment(Description):
    """The machine and the versions that made an artifact; ``versions`` has ``git``, too."""

    device: str = ""
    versions: dict[str, str] = {}


class QuantisationDescription(Description):
    """``bits`` of the weights, ``folded`` blocks, and layers whose output is rounded."""

    bits: int
    folded: list[str]
    leaving: list[str]


class NetworkDescription(Description):
    """A network's structure: a named network and the changes to it.

    ``pieces`` replace its blocks, ``trimmed`` layers have other sizes, and ``heads`` are the blocks
    with a classifier of their own. In a ``sparse`` network, weights that are zero stay zero.
    """

    teacher: dict[str, Any]
    pieces: list[dict[str, Any]] = []
    heads: list[str] = []
    trimmed: dict[str, list[int]] = {}
    sparse: bool = False
    quantised: QuantisationDescription | None = None


class AssemblyDescription(Description):
    """How an assembled network was planned.

    ``chosen`` are its parts' labels, ``parts`` have position, score and costs, and ``over`` maps
    each cost beyond its budget to its value and limits. Earlier records have no ``parts``.
    """

    chosen: tuple[str, ...] = ()
    parts: list[dict[str, Any]] = []
    calibration: dict[str, Any] = {}
    over: dict[str, dict[str, Any]] = {}
