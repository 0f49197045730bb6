"""The section on assemblies: their table and the errors of the predictions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse.search.assembly.calibration import MIN_MEASURED_ASSEMBLIES
from stillhouse.search.core import formatting
from stillhouse.search.report.core.assembled import END_PARTS, AssemblyResult, find_assemblies
from stillhouse.search.report.core.table import Table
from stillhouse.search.report.pictures import prediction
from stillhouse.search.results.outcome import Outcome

_METRICS = ("parameters", "flops", "bytes", "planned_latency_ms", "latency_ms")
_CALIBRATED_METRICS: Mapping[str, str] = {
    "score": "predicted and true accuracy as assembled",
    "latency_ms": "predicted and measured latency",
}


def prediction_sentences(outcome: Outcome) -> list[str]:
    """The rank agreement of scores, and the errors of predictions, in sentences."""
    ranking_sentences = [
        _ranking_sentence(score, rows)
        for score, rows in prediction.assemblies_by_score(outcome).items()
    ]
    rows = find_assemblies(outcome)
    return [
        *filter(None, ranking_sentences),
        *_calibration_sentences(rows),
        *_planning_sentences(rows),
    ]


def _ranking_sentence(score: str, rows: Sequence[AssemblyResult]) -> str:
    """The rank correlations of one score."""
    assembled_agreement, tuned_agreement = (
        prediction.agreement_assembled(rows),
        prediction.agreement_tuned(rows),
    )
    if assembled_agreement is None:
        return ""
    text = (
        f"The added-up {score} of {len(assembled_agreement.predicted)} assemblies ranks their "
        f"accuracy as assembled with {assembled_agreement.correlation_text}"
    )
    if tuned_agreement:
        count = len(tuned_agreement.predicted)
        text += (
            f", and the best student fine-tuned from each of {count} with "
            f"{tuned_agreement.correlation_text}"
        )
    advice = prediction.poor_score_advice(assembled_agreement, tuned_agreement)
    return f"{text}. {advice}".strip()


def _calibration_sentences(rows: Sequence[AssemblyResult]) -> list[str]:
    """The result of each calibration; assemblies that share one are named once."""
    calibrated_rows = [row for row in rows if row.record.assembly.calibration]
    sentences = [
        f"Nothing was calibrated: the assemblies made first are {count} different networks, and "
        f"a line needs {MIN_MEASURED_ASSEMBLIES}; ask for more of them, or offer more candidates."
        for row in calibrated_rows
        if (count := row.record.assembly.calibration["assemblies"]) < MIN_MEASURED_ASSEMBLIES
    ]
    sentences += [
        _calibration_sentence(row.record.assembly.calibration, metric, row.score)
        for row in calibrated_rows
        for metric in _CALIBRATED_METRICS
        if metric in row.record.assembly.calibration
    ]
    return list(dict.fromkeys(sentences))


def _calibration_sentence(calibration: Mapping[str, Any], metric: str, score: str) -> str:
    agreements = [calibration[metric][agreement] for agreement in ("before", "after", "left_out")]
    text_before, text_after, text_left_out = (
        _agreement_text(agreement, metric) for agreement in agreements
    )
    text = (
        f"Calibrated by {calibration['assemblies']} assemblies: {_CALIBRATED_METRICS[metric]} "
        f"were apart by {text_before} before and by {text_after} after. The honest figure, "
        "each assembly predicted by a "
        f"fit to the others, is {text_left_out}."
    )
    error_before, _, error_left_out = (
        _nan_if_none(agreement.get("mean_absolute_error")) for agreement in agreements
    )
    if error_left_out >= error_before:
        text += " That is no better than before: calibrate by more assemblies."
    if metric == "score" and score != "accuracy_drop":
        text += f" Before, the added-up {score} is read as accuracy lost, which it only resembles."
    return text


def _agreement_text(agreement: Mapping[str, float | None], metric: str) -> str:
    """``2.10 points (Spearman 0.93)``."""
    error, spearman = (_nan_if_none(agreement.get(k)) for k in ("mean_absolute_error", "spearman"))
    rank = "none" if math.isnan(spearman) else f"{spearman:.2f}"
    return f"{_error_text(error, metric)} (Spearman {rank})"


def _error_text(error: float, metric: str) -> str:
    return f"{error:.3g} ms" if metric.endswith("_ms") else f"{100 * error:.2f} points"


def _nan_if_none(value: float | None) -> float:
    """NaN for None, as JSON stores NaN as null."""
    return math.nan if value is None else value


def _planning_sentences(rows: Sequence[AssemblyResult]) -> Iterator[str]:
    """The errors of predictions for networks that had not been measured before."""
    calibration_structures = {row.structure for row in rows if row.is_calibration}
    planned = [row for row in rows if row.structure not in calibration_structures]
    losses = _pairs(planned, "planned_loss", "val_accuracy")
    if losses:
        error = _mean_error([(1.0 - loss, accuracy) for loss, accuracy in losses])
        yield (
            f"Of {_count_text(losses)} planned with a calibration, the predicted accuracy as "
            "assembled "
            f"was {_error_text(error, 'val_accuracy')} off on average."
        )
    if latencies := _pairs(planned, "planned_latency_ms", "latency_ms"):
        error_text = _error_text(_mean_error(latencies), "_ms")
        text = f"Of {_count_text(latencies)} the predicted latency was {error_text} off"
        summed = _pairs(planned, "summed_latency_ms", "latency_ms")
        if summed and summed != latencies:
            text += f", the plain sum of their parts' {_error_text(_mean_error(summed), '_ms')}"
        yield f"{text}, on average."


def _count_text(pairs: Sequence[object]) -> str:
    return f"{len(pairs)} assembl{'y' if len(pairs) == 1 else 'ies'}"


def _pairs(rows: Sequence[AssemblyResult], first: str, second: str) -> list[tuple[float, float]]:
    pairs = [(row.metric(first), row.metric(second)) for row in rows]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def _mean_error(pairs: Sequence[tuple[float, float]]) -> float:
    # scipy takes a second to import, which `check` need not wait for.
    from stillhouse.search.assembly.calibration import agreement

    predicted, measured = zip(*pairs, strict=True)
    return agreement(predicted, measured).mean_absolute_error


def assembly_table(outcome: Outcome) -> Table | None:
    """A row an assembly; None without assemblies. Columns without a value are left out."""
    rows = find_assemblies(outcome)
    columns = {
        "assembly": [row.label for row in rows],
        "budget": [_budget_text(row) for row in rows],
        "rank": [row.plan.get("rank", "") if not row.is_calibration else "" for row in rows],
        "parts": [parts_text(row) for row in rows],
        "score": [row.score for row in rows],
        "predicted score": [_metric_text(row, "planned_score") for row in rows],
        "predicted accuracy, %": [
            _value_text("val_accuracy", 1.0 - row.metric("planned_loss")) for row in rows
        ],
        "as assembled, %": [_metric_text(row, "val_accuracy") for row in rows],
        "best fine-tuned, %": [_value_text("val_accuracy", row.best_accuracy) for row in rows],
        "trials": [", ".join(str(trial.number) for trial in row.trials) for row in rows],
        **{
            formatting.axis_label(metric): [_metric_text(row, metric) for row in rows]
            for metric in _METRICS
        },
        "over budget": [_excess_text(row) for row in rows],
    }
    shown = {name: cells for name, cells in columns.items() if any(c != "" for c in cells)}
    return Table.of(shown, zip(*shown.values(), strict=True), sortable=True)


def _metric_text(row: AssemblyResult, metric: str) -> str:
    return _value_text(metric, row.metric(metric))


def _value_text(metric: str, value: float) -> str:
    return formatting.format_number(metric, value) if math.isfinite(value) else ""


def _budget_text(row: AssemblyResult) -> str:
    """``parameters ≤ 135,000``."""
    if row.is_calibration:
        return "none: made to calibrate by"
    texts = []
    for cost, limit in row.plan.get("budgets", {}).items():
        minimum, maximum = limit.get("min"), limit.get("max")
        minimum_text = f"{formatting.format_value(cost, minimum)} ≤ " if minimum is not None else ""
        maximum_text = f" ≤ {formatting.format_value(cost, maximum)}" if maximum is not None else ""
        texts.append(f"{minimum_text}{formatting.metric_label(cost)}{maximum_text}")
    return ", ".join(texts)


def parts_text(row: AssemblyResult) -> str:
    """``kept 1-2, 2-3; pruned 3-5; identity 5-6``: neighbours of one name together."""
    inner = [part for part in row.parts if part.kind not in END_PARTS]
    runs = itertools.groupby(inner, key=lambda part: part.name)
    return "; ".join(
        f"{name} {', '.join(part.position_text for part in run)}" for name, run in runs
    )


def _excess_text(row: AssemblyResult) -> str:
    """The measured costs that exceed a budget."""
    texts = []
    for cost, excess in row.record.assembly.over.items():
        measured, maximum, minimum = excess["found"], excess.get("most"), excess.get("least")
        limit = maximum if maximum is not None and measured > maximum else minimum
        allowed = "" if limit is None else f", allowed {formatting.format_value(cost, limit)}"
        texts.append(
            f"{formatting.metric_label(cost)} {formatting.format_value(cost, measured)}{allowed}"
        )
    return "; ".join(texts)
