"""What a screen said of a configuration, and how far it can be trusted.

A screen ranks configurations by students trained on distilled data alone, and lets the best go on
to real training (:mod:`search.screen`). All of this is read from the study's trials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, Self

ENOUGH = 8
"""Trials with both figures, from which on a screen is judged by their correlation."""

Said = Literal["kept", "check", "out", "unscreened", "off"]


@dataclass(frozen=True)
class Screened:
    """What the screen said of one configuration.

    ``said``: ``kept`` as one of the best; ``check`` though it is none, to measure the screen by;
    ``out``; ``unscreened`` as its student could not be, ``why`` says it; ``off`` as the screen no
    longer is trusted. ``figures`` holds ``screen_<figure>``, ``rank`` is among ``of`` screened
    together, ``keys`` are those of the screen's student and all that it rests on.
    """

    said: Said
    figures: Mapping[str, float] = field(default_factory=dict)
    rank: int = 0
    of: int = 0
    why: str = ""
    keys: tuple[str, ...] = ()

    @classmethod
    def read(cls, told: Mapping[str, Any] | None) -> Self | None:
        """From what :meth:`plain` gave."""
        return cls(**{**told, "keys": tuple(told["keys"])}) if told else None

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "keys": list(self.keys)}

    def __str__(self) -> str:
        if not self.rank:
            return f"{_WORDS[self.said]}: {self.why}"
        failed = f"failed on distilled data ({self.why})"
        value = next((f"{x:.4g} on distilled data" for x in self.figures.values()), failed)
        return f"{_WORDS[self.said]}: {value}, rank {self.rank} of {self.of}"


_WORDS: Mapping[Said, str] = {
    "kept": "kept",
    "check": "trained to check the screen",
    "out": "screened out",
    "unscreened": "not screened",
    "off": "screen switched off",
}


def screen_figure(figure: str) -> str:
    """What a trial's figure on distilled data is called."""
    return f"screen_{figure}"


class Tried(Protocol):
    """A trial, as far as its screen goes."""

    @property
    def state(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def screen(self) -> Screened | None: ...


@dataclass(frozen=True)
class Judged:
    """How a screen did.

    ``pairs`` are (figure on distilled data, real figure) of the finished trials that have both;
    ``spearman`` is their rank correlation, not a number for fewer than three, and where all of one
    kind are equal. Only what was kept or checked has a real figure, so the range is cut short and
    the correlation smaller than that over all proposals. ``off`` says why the screen was switched
    off, if it was; ``counts`` how many trials it said what of.
    """

    pairs: tuple[tuple[float, float], ...]
    spearman: float
    off: str
    counts: Mapping[Said, int]

    def distrusted(self, trust: float) -> str:
        """Why the screen is not to be used any more; empty while it may be."""
        if self.off or len(self.pairs) < ENOUGH or self.spearman >= trust:
            return self.off
        return f"{self.told} is below run.screen.trust: {trust:g}"

    @property
    def told(self) -> str:
        """The correlation in words."""
        over = f"over {len(self.pairs)} trials"
        if math.isnan(self.spearman):
            return f"no rank correlation {over}"
        return f"Spearman {self.spearman:.2f} {over}"

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        known = None if math.isnan(self.spearman) else self.spearman
        counts = dict(self.counts)
        return {"spearman": known, "pairs": len(self.pairs), "off": self.off, "said": counts}


def judged(trials: Iterable[Tried], figure: str) -> Judged | None:
    """How the screen of some trials did in ``figure``; none where none was screened."""
    screened = [(trial, trial.screen) for trial in trials if trial.screen]
    if not screened:
        return None
    pairs = [
        (said.figures[screen_figure(figure)], trial.figures[figure])
        for trial, said in screened
        if trial.state == "finished"
        and screen_figure(figure) in said.figures
        and figure in trial.figures
    ]
    off = next((said.why for _, said in screened if said.said == "off"), "")
    counts = Counter(said.said for _, said in screened)
    return Judged(tuple(pairs), _spearman(pairs), off, counts)


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    from search.calibration import agreement  # scipy takes a second, which a check need not wait

    return agreement(*zip(*pairs, strict=True)).spearman if len(pairs) > 2 else math.nan
