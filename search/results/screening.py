"""The decisions of a proxy screen, and how well it ranks.

A screen ranks configurations by students trained on distilled data alone. Only the best continue
with real training (``stillhouse.search.tuning.proxy_screen``).
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
"""Smallest number of trials with both values for which the correlation is judged."""
MIN_CHECKED = 3
"""Smallest number of these that were not kept; the kept ones alone rank too narrow a range."""

ScreenVerdict = Literal["kept", "check", "out", "unscreened", "off"]


@dataclass(frozen=True)
class ScreenDecision:
    """The screen's decision on one configuration.

    Attributes:
        said: ``kept`` as one of the best; ``check``: trained although it is not, to measure the
            screen; ``out``; ``unscreened``: the screen's student failed; ``off``: the screen is
            switched off.
        figures: ``screen_<metric>`` -> value.
        rank: the rank among ``of`` configurations that were screened together.
        why: the reason for ``unscreened`` or ``off``.
        keys: of the screen's student and all its ancestors.
    """

    said: ScreenVerdict
    figures: Mapping[str, float] = field(default_factory=dict)
    rank: int = 0
    of: int = 0
    why: str = ""
    keys: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Self | None:
        """The inverse of ``plain``."""
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
    """The name of a trial's metric on distilled data."""
    return f"screen_{metric}"


class ScreenedTrial(Protocol):
    """The attributes of a trial that ``screen_quality`` reads."""

    @property
    def state(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def screen(self) -> ScreenDecision | None: ...


@dataclass(frozen=True)
class ScreenQuality:
    """How well a screen ranks.

    Attributes:
        pairs: (value on distilled data, real value) of the finished trials that have both.
        num_checked: the number of these pairs that had not been kept.
        spearman: their rank correlation, weighted to represent all screened configurations: kept
            pairs stand for all that were kept, checked pairs for the others. NaN for fewer than
            three pairs, and where all values of one kind are equal.
        disabled_reason: why the screen was switched off; "" if it was not.
        verdict_counts: number of trials per decision.
    """

    pairs: tuple[tuple[float, float], ...]
    num_checked: int
    spearman: float
    disabled_reason: str
    verdict_counts: Mapping[ScreenVerdict, int]

    @property
    def num_not_kept(self) -> int:
        """Number of configurations that were screened and not kept."""
        return _num_not_kept(self.verdict_counts)

    def distrust_reason(self, trust: float) -> str:
        """Why the screen must not be used any more; "" while it may be."""
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
    """The quality of the screen in ``metric``; None if no trial was screened."""
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
    """Spearman's correlation with weighted pairs.

    NaN for fewer than three pairs, and where all values of one kind are equal.
    """
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return math.nan
    first_ranks, second_ranks = (_ranks(column, weights) for column in zip(*pairs, strict=True))
    covariance = np.cov(first_ranks, second_ranks, aweights=weights, ddof=0)
    return float(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))


def _ranks(values: Sequence[float], weights: Sequence[float]) -> NDArray[np.float64]:
    """Ranks: the weight of all smaller values, and half the weight of the equal ones."""
    column = np.asarray(values)[:, None]
    ranks: NDArray[np.float64] = ((values < column) + (values == column) / 2) @ np.asarray(weights)
    return ranks
