"""What a screen said of a configuration, and how far it can be trusted.

A screen ranks configurations by students trained on distilled data alone, and lets the best go on
to real training (:mod:`stillhouse.search.tuning.proxy_screen`). All of this is read from the
study's trials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

ENOUGH = 8
"""Trials with both figures, from which on a screen is judged by their correlation."""
CHECKED = 3
"""Of them not kept, where not all are: how the kept ones rank among each other says little."""

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

    ``pairs`` are (figure on distilled data, real figure) of the finished trials that have both,
    ``checked`` how many of them had not been kept. ``spearman`` is their rank correlation as it
    would be over all that was screened: each pair counts for as many as it stands for, a kept one
    for the kept, a checked one for the others. It is not a number for fewer than three, and where
    all of one kind are equal. ``off`` says why the screen was switched off, if it was; ``counts``
    how many trials it said what of.
    """

    pairs: tuple[tuple[float, float], ...]
    checked: int
    spearman: float
    off: str
    counts: Mapping[Said, int]

    @property
    def others(self) -> int:
        """How many were screened and not kept."""
        return _others(self.counts)

    def distrusted(self, trust: float) -> str:
        """Why the screen is not to be used any more; empty while it may be."""
        known = len(self.pairs) >= ENOUGH and (self.checked >= CHECKED or not self.others)
        if self.off or not known or self.spearman >= trust:
            return self.off
        return f"{self.told} is below run.screen.trust: {trust:g}"

    @property
    def told(self) -> str:
        """The correlation in words."""
        over = f"over {len(self.pairs)} trials"
        if self.others:
            over += f", {self.checked} of them not kept"
        if math.isnan(self.spearman):
            return f"no rank correlation {over}"
        return f"Spearman {self.spearman:.2f} {over}"

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        known = None if math.isnan(self.spearman) else self.spearman
        told = {"spearman": known, "pairs": len(self.pairs), "checked": self.checked}
        return {**told, "off": self.off, "said": dict(self.counts)}


def judged(trials: Iterable[Tried], figure: str) -> Judged | None:
    """How the screen of some trials did in ``figure``; none where none was screened."""
    screened = [(trial, trial.screen) for trial in trials if trial.screen]
    if not screened:
        return None
    counts = Counter(said.said for _, said in screened)
    finished = [
        (trial, said)
        for trial, said in screened
        if trial.state == "finished"
        and screen_figure(figure) in said.figures
        and figure in trial.figures
    ]
    pairs = tuple((s.figures[screen_figure(figure)], t.figures[figure]) for t, s in finished)
    checked = [said.said == "check" for _, said in finished]
    kept_one = counts["kept"] / max(1, len(pairs) - sum(checked))
    other = _others(counts) / max(1, sum(checked))
    spearman = weighted_spearman(pairs, [other if check else kept_one for check in checked])
    off = next((said.why for _, said in screened if said.said == "off"), "")
    return Judged(pairs, sum(checked), spearman, off, counts)


def _others(counts: Mapping[Said, int]) -> int:
    return counts.get("out", 0) + counts.get("check", 0)


def weighted_spearman(pairs: Sequence[tuple[float, float]], weights: Sequence[float]) -> float:
    """Spearman's correlation where each pair is there ``weights`` times, whole or not.

    Not a number for fewer than three pairs, and where all of one kind are equal.
    """
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return math.nan
    one, other = (_ranks(column, weights) for column in zip(*pairs, strict=True))
    spread = np.cov(one, other, aweights=weights, ddof=0)
    return float(spread[0, 1] / math.sqrt(spread[0, 0] * spread[1, 1]))


def _ranks(values: Sequence[float], weights: Sequence[float]) -> NDArray[np.float64]:
    """The weight of what is smaller, and half of that of what is equal."""
    column = np.asarray(values)[:, None]
    ranks: NDArray[np.float64] = ((values < column) + (values == column) / 2) @ np.asarray(weights)
    return ranks
