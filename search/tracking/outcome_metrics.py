"""What a search came to, as metrics of its run."""

from __future__ import annotations

import math

from search.outcome import Outcome
from search.screened import judged


def repeated(outcome: Outcome) -> dict[str, float]:
    """Mean and spread over seeds of the goals' figures."""
    metrics = {}
    for one in outcome.repeats:
        for figure in {goal.figure for goal in outcome.goals}:
            if one.records and all(figure in r.figures for r in one.records):
                name = f"repeats.{one.name.replace(',', '')}.{figure}"
                metrics[f"{name}.mean"] = one.mean(figure)
                metrics[f"{name}.spread"] = one.spread(figure)
    return metrics


def screened(outcome: Outcome) -> dict[str, float]:
    """How the screen ranked, and what it said of how many; nothing where there was none."""
    found = judged(outcome.trials, outcome.goals[0].figure)
    if found is None:
        return {}
    metrics = {f"screen.{said}": float(count) for said, count in found.counts.items()}
    metrics["screen.pairs"] = len(found.pairs)
    known = {} if math.isnan(found.spearman) else {"screen.spearman": found.spearman}
    return metrics | known
