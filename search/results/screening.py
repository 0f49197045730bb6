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

MIN_PAIRS = 8
"""Trials with both figures, from which on a screen is judged by their correlation."""
MIN_CHECKED = 3
"""Of them not kept, where not all are: how the kept ones rank among each other says little."""

ScreenVerdict = Literal["kept", "check", "out", "unscreened", "off"]


@dataclass(frozen=True)
class ScreenDecision:
    """What the screen said of one configuration.

    ``said``: ``kept`` as one of the best; ``check`` though it is none, to measure the screen by;
    ``out``; ``unscreened`` as its student could not be, ``why`` says it; ``off`` as the screen no
    longer is trusted. ``figures`` holds ``screen_<figure>``, ``rank`` is among ``of`` screened
    together, ``keys`` are those of the screen's student and all that it rests on.
    """

    said: ScreenVerdict
    figures: Mapping[str, float] = field(default_factory=dict)
    rank: int = 0
    of: int = 0
    why: str = ""
    keys: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Self | None:
        """From what :meth:`plain` gave."""
        return cls(**{**data, "keys": tuple(data["keys"])}) if data else None

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "keys": list(self.keys)}

    def __str__(self) -> str:
        if not self.rank:
            return f"{_VERDICT_TEXTS[self.said]}: {self.why}"
        failed = f"failed on distilled data ({self.why})"
        value = next((f"{x:.4g} on distilled data" for x in self.figures.values()), failed)
        return f"{_VERDICT_TEXTS[self.said]}: {value}, rank {self.rank} of {self.of}"


_VERDICT_TEXTS: Mapping[ScreenVerdict, str] = {
    "kept": "kept",
    "check": "trained to check the screen",
    "out": "screened out",
    "unscreened": "not screened",
    "off": "screen switched off",
}


def screen_metric(metric: str) -> str:
    """What a trial's figure on distilled data is called."""
    return f"screen_{metric}"


class ScreenedTrial(Protocol):
    """A trial, as far as its screen goes."""

    @property
    def state(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def screen(self) -> ScreenDecision | None: ...


@dataclass(frozen=True)
class ScreenQuality:
    """How a screen did.

    ``pairs`` are (figure on distilled data, real figure) of the finished trials that have both,
    ``num_checked`` how many of them had not been kept. ``spearman`` is their rank correlation as it
    would be over all that was screened: each pair counts for as many as it stands for, a kept one
    for the kept, a checked one for the others. It is not a number for fewer than three, and where
    all of one kind are equal. ``disabled_reason`` says why the screen was switched off, if it was;
    ``verdict_counts`` how many trials it said what of.
    """

    pairs: tuple[tuple[float, float], ...]
    num_checked: int
    spearman: float
    disabled_reason: str
    verdict_counts: Mapping[ScreenVerdict, int]

    @property
    def num_not_kept(self) -> int:
        """How many were screened and not kept."""
        return _num_not_kept(self.verdict_counts)

    def distrust_reason(self, trust: float) -> str:
        """Why the screen is not to be used any more; empty while it may be."""
        is_measured = len(self.pairs) >= MIN_PAIRS and (
            self.num_checked >= MIN_CHECKED or not self.num_not_kept
        )
        if self.disabled_reason or not is_measured or self.spearman >= trust:
            return self.disabled_reason
        return f"{self.correlation_text} is below run.screen.trust: {trust:g}"

    @property
    def correlation_text(self) -> str:
        """The correlation in words."""
        sample_text = f"over {len(self.pairs)} trials"
        if self.num_not_kept:
            sample_text += f", {self.num_checked} of them not kept"
        if math.isnan(self.spearman):
            return f"no rank correlation {sample_text}"
        return f"Spearman {self.spearman:.2f} {sample_text}"

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        spearman = None if math.isnan(self.spearman) else self.spearman
        data = {"spearman": spearman, "pairs": len(self.pairs), "checked": self.num_checked}
        return {**data, "off": self.disabled_reason, "said": dict(self.verdict_counts)}


def screen_quality(trials: Iterable[ScreenedTrial], metric: str) -> ScreenQuality | None:
    """How the screen of some trials did in ``metric``; none where none was screened."""
    screened_trials = [(trial, trial.screen) for trial in trials if trial.screen]
    if not screened_trials:
        return None
    counts = Counter(decision.said for _, decision in screened_trials)
    finished = [
        (trial, decision)
        for trial, decision in screened_trials
        if trial.state == "finished"
        and screen_metric(metric) in decision.figures
        and metric in trial.figures
    ]
    pairs = tuple((s.figures[screen_metric(metric)], t.figures[metric]) for t, s in finished)
    are_checks = [decision.said == "check" for _, decision in finished]
    kept_weight = counts["kept"] / max(1, len(pairs) - sum(are_checks))
    check_weight = _num_not_kept(counts) / max(1, sum(are_checks))
    spearman = weighted_spearman(
        pairs, [check_weight if check else kept_weight for check in are_checks]
    )
    disabled_reason = next(
        (decision.why for _, decision in screened_trials if decision.said == "off"), ""
    )
    return ScreenQuality(pairs, sum(are_checks), spearman, disabled_reason, counts)


def _num_not_kept(counts: Mapping[ScreenVerdict, int]) -> int:
    return counts.get("out", 0) + counts.get("check", 0)


def weighted_spearman(pairs: Sequence[tuple[float, float]], weights: Sequence[float]) -> float:
    """Spearman's correlation where each pair is there ``weights`` times, whole or not.

    Not a number for fewer than three pairs, and where all of one kind are equal.
    """
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return math.nan
    first_ranks, second_ranks = (_ranks(column, weights) for column in zip(*pairs, strict=True))
    covariance = np.cov(first_ranks, second_ranks, aweights=weights, ddof=0)
    return float(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))


def _ranks(values: Sequence[float], weights: Sequence[float]) -> NDArray[np.float64]:
    """The weight of what is smaller, and half of that of what is equal."""
    column = np.asarray(values)[:, None]
    ranks: NDArray[np.float64] = ((values < column) + (values == column) / 2) @ np.asarray(weights)
    return ranks
