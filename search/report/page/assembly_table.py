"""The section on assemblies: their table, and how far predictions were from the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse.search.assembly.calibration import FEWEST
from stillhouse.search.core import formatting
from stillhouse.search.report.core.assembled import ENDS, Assembled, assembled
from stillhouse.search.report.core.markup import Html, element, join, table
from stillhouse.search.report.pictures import prediction
from stillhouse.search.results.outcome import Outcome

_FIGURES = ("parameters", "flops", "bytes", "planned_latency_ms", "latency_ms")
_CALIBRATED: Mapping[str, str] = {
    "score": "predicted and true accuracy as assembled",
    "latency_ms": "predicted and measured latency",
}


def inventory(outcome: Outcome) -> Html | None:
    """Sentences and the table; none for a search without assemblies."""
    rows = assembled(outcome)
    if not rows:
        return None
    told = [element("li", text) for text in sentences(outcome)]
    return join([*([element("ul", *told)] if told else []), _table(rows)])


def sentences(outcome: Outcome) -> list[str]:
    """How well scores ranked assemblies, and how far apart prediction and truth were."""
    told = [_ranked(score, rows) for score, rows in prediction.by_score(outcome).items()]
    rows = assembled(outcome)
    return [*filter(None, told), *_calibrations(rows), *_planned(rows)]


def _ranked(score: str, rows: Sequence[Assembled]) -> str:
    """The rank correlations of one score."""
    untouched, tuned = prediction.before(rows), prediction.after(rows)
    if untouched is None:
        return ""
    told = (
        f"The added-up {score} of {len(untouched.predicted)} assemblies ranks their accuracy as "
        f"assembled with {untouched.told}"
    )
    if tuned:
        count = len(tuned.predicted)
        told += f", and the best student fine-tuned from each of {count} with {tuned.told}"
    advice = prediction.warning(untouched, tuned)
    return f"{told}. {advice}".strip()


def _calibrations(rows: Sequence[Assembled]) -> list[str]:
    """What each calibration came to; assemblies that share theirs tell it once."""
    known = [row for row in rows if row.record.facts.get("calibration")]
    told = [
        f"Nothing was calibrated: the assemblies made first are {count} different networks, and "
        f"a line needs {FEWEST}; ask for more of them, or offer more candidates."
        for row in known
        if (count := row.record.facts["calibration"]["assemblies"]) < FEWEST
    ]
    told += [
        _calibrated(row.record.facts["calibration"], figure, row.score)
        for row in known
        for figure in _CALIBRATED
        if figure in row.record.facts["calibration"]
    ]
    return list(dict.fromkeys(told))


def _calibrated(facts: Mapping[str, Any], figure: str, score: str) -> str:
    ways = [facts[figure][way] for way in ("before", "after", "left_out")]
    before, after, left_out = (_apart(way, figure) for way in ways)
    told = (
        f"Calibrated by {facts['assemblies']} assemblies: {_CALIBRATED[figure]} were apart by "
        f"{before} before and by {after} after. The honest figure, each assembly predicted by a "
        f"fit to the others, is {left_out}."
    )
    first, _, last = (_number(way.get("mean_absolute_error")) for way in ways)
    if last >= first:
        told += " That is no better than before: calibrate by more assemblies."
    if figure == "score" and score != "accuracy_drop":
        told += f" Before, the added-up {score} is read as accuracy lost, which it only resembles."
    return told


def _apart(agreement: Mapping[str, float | None], figure: str) -> str:
    """``2.10 points (Spearman 0.93)``."""
    error, spearman = (_number(agreement.get(k)) for k in ("mean_absolute_error", "spearman"))
    rank = "none" if math.isnan(spearman) else f"{spearman:.2f}"
    return f"{_off(error, figure)} (Spearman {rank})"


def _off(error: float, figure: str) -> str:
    return f"{error:.3g} ms" if figure.endswith("_ms") else f"{100 * error:.2f} points"


def _number(value: float | None) -> float:
    """JSON has null for what is not a number."""
    return math.nan if value is None else value


def _planned(rows: Sequence[Assembled]) -> Iterator[str]:
    """How far off predictions were of what had not been measured before."""
    known = {row.structure for row in rows if row.first}
    planned = [row for row in rows if row.structure not in known]
    losses = _pairs(planned, "planned_loss", "val_accuracy")
    if losses:
        error = _error([(1.0 - loss, accuracy) for loss, accuracy in losses])
        yield (
            f"Of {_many(losses)} planned with a calibration, the predicted accuracy as assembled "
            f"was {_off(error, 'val_accuracy')} off on average."
        )
    if times := _pairs(planned, "planned_latency_ms", "latency_ms"):
        told = f"Of {_many(times)} the predicted latency was {_off(_error(times), '_ms')} off"
        plain = _pairs(planned, "summed_latency_ms", "latency_ms")
        if plain and plain != times:
            told += f", the plain sum of their parts' {_off(_error(plain), '_ms')}"
        yield f"{told}, on average."


def _many(pairs: Sequence[object]) -> str:
    return f"{len(pairs)} assembl{'y' if len(pairs) == 1 else 'ies'}"


def _pairs(rows: Sequence[Assembled], one: str, other: str) -> list[tuple[float, float]]:
    pairs = [(row.figure(one), row.figure(other)) for row in rows]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def _error(pairs: Sequence[tuple[float, float]]) -> float:
    from stillhouse.search.assembly.calibration import (
        agreement,  # scipy takes a second, which a check need not wait
    )

    predicted, measured = zip(*pairs, strict=True)
    return agreement(predicted, measured).mean_absolute_error


def _table(rows: Sequence[Assembled]) -> Html:
    """A row an assembly; columns in which nothing is known are left out."""
    columns = {
        "assembly": [row.label for row in rows],
        "budget": [_budget(row) for row in rows],
        "rank": [row.work.get("rank", "") if not row.first else "" for row in rows],
        "parts": [parts(row) for row in rows],
        "score": [row.score for row in rows],
        "predicted score": [_figure(row, "planned_score") for row in rows],
        "predicted accuracy, %": [
            _shown("val_accuracy", 1.0 - row.figure("planned_loss")) for row in rows
        ],
        "as assembled, %": [_figure(row, "val_accuracy") for row in rows],
        "best fine-tuned, %": [_shown("val_accuracy", row.reached) for row in rows],
        "trials": [", ".join(str(trial.number) for trial in row.trials) for row in rows],
        **{formatting.axis(f): [_figure(row, f) for row in rows] for f in _FIGURES},
        "over budget": [_over(row) for row in rows],
    }
    known = {name: cells for name, cells in columns.items() if any(c != "" for c in cells)}
    return table(list(known), zip(*known.values(), strict=True), sortable=True)


def _figure(row: Assembled, figure: str) -> str:
    return _shown(figure, row.figure(figure))


def _shown(figure: str, value: float) -> str:
    return formatting.number(figure, value) if math.isfinite(value) else ""


def _budget(row: Assembled) -> str:
    """``parameters ≤ 135,000``."""
    if row.first:
        return "none: made to calibrate by"
    told = []
    for cost, limit in row.work.get("budgets", {}).items():
        least, most = limit.get("min"), limit.get("max")
        before = f"{formatting.value(cost, least)} ≤ " if least is not None else ""
        behind = f" ≤ {formatting.value(cost, most)}" if most is not None else ""
        told.append(f"{before}{formatting.name(cost)}{behind}")
    return ", ".join(told)


def parts(row: Assembled) -> str:
    """``kept 1-2, 2-3; pruned 3-5; identity 5-6``: neighbours of one name together."""
    inner = [part for part in row.parts if part.kind not in ENDS]
    runs = itertools.groupby(inner, key=lambda part: part.name)
    return "; ".join(f"{name} {', '.join(part.place for part in run)}" for name, run in runs)


def _over(row: Assembled) -> str:
    """What the whole network was measured at beyond its budget."""
    told = []
    for cost, facts in row.record.facts.get("over", {}).items():
        found, most, least = facts["found"], facts.get("most"), facts.get("least")
        limit = most if most is not None and found > most else least
        allowed = "" if limit is None else f", allowed {formatting.value(cost, limit)}"
        told.append(f"{formatting.name(cost)} {formatting.value(cost, found)}{allowed}")
    return "; ".join(told)
