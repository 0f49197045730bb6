"""``do: compress``: pruned and quantised one after the other, in an order that can be searched.

Every step is followed by a fine-tuning in which the network as it was at first teaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.expansion.compression import Compressed
from stillhouse.search.stages.prune import Prune, Pruning
from stillhouse.search.stages.quantise import Quantise, Quantising
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice, Domain
from stillhouse.spaces.config.problems import ConfigError, Problem

Step = Literal["prune", "quantise"]
STEPS: Mapping[Step, type[Compressed]] = {"prune": Prune, "quantise": Quantise}
ORDERS = (("prune", "quantise"), ("quantise", "prune"))
_BEFORE = "the step before"
"""What a step calls the one whose network it goes on from."""


class Compress(Kind):
    """An entry that compresses a network in several steps."""

    start: str = knob(..., "the entry whose network is compressed, and which teaches it")
    order: tuple[Step, ...] = knob(ORDERS[0], "what is done first", Choice(ORDERS))
    prune: Pruning = knob(Pruning(), "settings of do: prune")
    quantise: Quantising = knob(Quantising(), "settings of do: quantise")

    def needs(self) -> tuple[str, ...]:
        return (self.start,)

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        if not self.order or len(set(self.order)) < len(self.order):
            message = f"needs prune, quantise or both, each once, found {list(self.order)}"
            raise ConfigError([Problem("order", message)])
        entry = needed[self.start]
        for number, step in enumerate(self.order, start=1):
            label = name if number == len(self.order) else f"{name}/{step}"
            known = {self.start: needed[self.start], _BEFORE: entry}
            try:
                entry = self.step(step).lay_out(label, known, data)
            except ConfigError as error:
                raise _placed(error, step) from None
        return entry

    def step(self, step: Step) -> Compressed:
        """One step as an entry of its own kind."""
        settings = self.prune if step == "prune" else self.quantise
        told = {field: getattr(settings, field) for field in type(settings).model_fields}
        around: dict[str, Any] = {"start": _BEFORE, "teachers": (self.start,), "seed": self.seed}
        return STEPS[step](do=step, **around, **told)

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("prune" | "quantise" as step, *rest) if rest:
                return self.step(step).declared(tuple(rest))
        return type(self).space().get(".".join(path))


def _placed(error: ConfigError, step: Step) -> ConfigError:
    """A step's problems with their places in the entry, whose own ``start`` is everybody's."""
    entrys = {"do", "start"}
    places = {p.path: p.path if p.path in entrys else f"{step}.{p.path}" for p in error.problems}
    return ConfigError([Problem(places[p.path], p.message) for p in error.problems])
