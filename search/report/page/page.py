"""``report.html``: a search on one page that needs no other file."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from stillhouse.search.artifacts.record import Record
from stillhouse.search.core import formatting
from stillhouse.search.report.core.axes_choice import choose_metric_axes, pareto_front
from stillhouse.search.report.core.headline import (
    comparison_sentences,
    headline,
    reuse_sentence,
    screen_sentence,
    trials_sentence,
)
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import KEY_LETTERS, Participants, is_assembly_part
from stillhouse.search.report.core.table import Table
from stillhouse.search.report.page.assembly_table import assembly_table, prediction_sentences
from stillhouse.search.report.page.comparison import comparison_table, setting_text
from stillhouse.search.report.page.rendering import render
from stillhouse.search.report.pictures import factorial
from stillhouse.search.results.outcome import Outcome, TrialResult
from stillhouse.search.results.statistics import best_seed_runs, ranking

MAX_BEST_TRIALS = 20
_COLLECTIVE_NAMES = {**formatting.PART_NAMES, "assemble": "assemblies to calibrate by"}


@dataclass(frozen=True)
class Section:
    """A heading, sentences and a table; left out where there is no table."""

    title: str
    table: Table | None
    sentences: Sequence[str] = ()


def render_page(
    outcome: Outcome,
    experiment: Mapping[str, Any],
    participants: Participants,
    pictures: Sequence[Picture],
    best_yaml: str,
) -> str:
    """The whole page; names, reasons and settings are escaped."""
    title = str(experiment.get("name", outcome.name))
    space: Mapping[str, Any] = experiment.get("search", {})
    reuse = f"{trials_sentence(outcome)} {reuse_sentence(outcome, participants)}"
    return render(
        "report.html.j2",
        name=outcome.name,
        title=f"{outcome.name}: {title}" if title != outcome.name else title,
        headline=headline(outcome),
        comparisons=comparison_sentences(outcome),
        notes=[note for note in (reuse, screen_sentence(outcome)) if note],
        pictures=pictures,
        sections=[
            Section("Without and with distillation", factorial.effect_table(outcome)),
            Section("Settled over fresh seeds", comparison_table(outcome, space)),
            Section("What was searched", _search_space_table(outcome, experiment)),
            Section("The best trials", _best_trials_table(outcome, participants, space)),
            Section("Assemblies", assembly_table(outcome), prediction_sentences(outcome)),
            Section("Shared stages", _stage_table(outcome, participants.shared)),
            Section("Not finished", _unfinished_table(outcome)),
        ],
        best_yaml=best_yaml,
        artifacts=_artifact_table(outcome, participants),
        provenance=_provenance(outcome),
    )


def _search_space_table(outcome: Outcome, experiment: Mapping[str, Any]) -> Table | None:
    """Every searched path, its values, the best configuration's, and how much it mattered."""
    space: Mapping[str, Any] = experiment.get("search", {})
    best_runs, ranked = best_seed_runs(outcome), ranking(outcome)
    chosen: TrialResult | None = ranked[0] if ranked else None
    if best_runs:
        chosen = next((t for t in ranked if best_runs.role == f"trial {t.number}"), chosen)
    values, shares = chosen.values if chosen else {}, outcome.importances.items()
    rows = [
        (
            path,
            formatting.format_domain(domain, path),
            formatting.format_setting(values[path], domain, path)
            if path in values
            else _link_values(path, values, domain),
            _importance_text(path, {p: x for p, x in shares if p == path or p not in space}),
        )
        for path, domain in space.items()
    ]
    column = f"in trial {chosen.number}" if chosen else "chosen"
    return Table.of(("path", "values", column, "importance"), rows)


def _importance_text(path: str, importances: Mapping[str, float]) -> str:
    """A path's importance; a chain's is that of all its members."""
    prefix = f"{path.partition('*')[0]}" if "*" in path else f"{path}."
    shares = [
        share for name, share in importances.items() if name == path or name.startswith(prefix)
    ]
    return f"{100 * sum(shares):.0f} %" if shares else ""


def _link_values(path: str, values: Mapping[str, Any], domain: Any) -> str:
    """The values of a path with ``*``, one for each link of a chain."""
    prefix, star, suffix = path.partition("*")
    by_link = {
        value_path.removeprefix(prefix).removesuffix(suffix): value
        for value_path, value in values.items()
        if star and value_path.startswith(prefix) and value_path.endswith(suffix)
    }
    return ", ".join(
        f"{link}: {formatting.format_setting(value, domain)}" for link, value in by_link.items()
    )


def _best_trials_table(
    outcome: Outcome, participants: Participants, space: Mapping[str, Any]
) -> Table | None:
    """The best trials with their searched values; those of the Pareto front are marked."""
    ranked = ranking(outcome)[:MAX_BEST_TRIALS]
    if not ranked:
        return None
    on_front = {
        s.trial.number
        for s in pareto_front(participants.students, choose_metric_axes(outcome.goals))
    }
    figures = list(dict.fromkeys([*(g.figure for g in outcome.goals), "parameters"]))
    paths = list(dict.fromkeys(path for trial in ranked for path in trial.values))
    rows = [
        (
            trial.number,
            *(formatting.format_number(f, trial.figures.get(f, math.nan)) for f in figures),
            "yes" if trial.number in on_front else "",
            *(setting_text(path, trial.values, space) for path in paths),
            _key_cell(trial.student_key) if trial.stage_keys else "",
        )
        for trial in ranked
    ]
    names = formatting.distinct_suffixes(paths)
    columns = [
        "trial",
        *map(formatting.axis_label, figures),
        "Pareto front",
        *(names[p] for p in paths),
    ]
    return Table.of([*columns, "key"], rows, sortable=True)


def _stage_table(outcome: Outcome, keys: Iterable[str]) -> Table | None:
    rows = [_stage_row(outcome, outcome.records[key]) for key in keys]
    columns = ("stage", "key", "", "seconds", "validation accuracy, %", "parameters")
    return Table.of((*columns, "made from"), rows, sortable=True)


def _stage_row(outcome: Outcome, record: Record) -> tuple[Any, ...]:
    key, figures = record.key, record.figures
    state = "reused" if key in outcome.reused_keys else "made" if key in outcome.made_keys else ""
    return (
        outcome.labels.get(key, record.name),
        _key_cell(key),
        state,
        f"{record.seconds:.1f}",
        formatting.format_number("val_accuracy", figures.get("val_accuracy", math.nan)),
        formatting.format_number("parameters", figures.get("parameters", math.nan)),
        _parents_text(outcome, record),
    )


def _parents_text(outcome: Outcome, record: Record) -> str:
    """Its parents' names; the parts of an assembly, which are many, by their number."""
    parents = [(parent, outcome.records.get(parent)) for parent in record.parents]
    named_parents = [
        parent
        for parent, parent_record in parents
        if parent_record is None or not is_assembly_part(parent_record)
    ]
    labels = [outcome.labels.get(parent, parent[:KEY_LETTERS]) for parent in named_parents]
    counts = Counter(
        parent_record.kind
        for _, parent_record in parents
        if parent_record is not None and is_assembly_part(parent_record)
    )
    return ", ".join(
        labels
        + [f"{counts[kind]} {plural}" for kind, plural in _COLLECTIVE_NAMES.items() if counts[kind]]
    )


def _artifact_table(outcome: Outcome, participants: Participants) -> Table | None:
    """Students, and stages made again over seeds."""
    keys = [key for key in outcome.records if key not in participants.shared]
    keys.sort(key=lambda key: (outcome.records[key].name, outcome.records[key].made_at))
    return _stage_table(outcome, keys)


def _unfinished_table(outcome: Outcome) -> Table | None:
    """Trials that failed or were stopped, those with one reason together."""
    reasons: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for trial in outcome.trials:
        if trial.state != "finished":
            reasons[trial.state, trial.reason].append(trial.number)
    rows = [
        (state, reason, len(numbers), ", ".join(map(str, numbers)))
        for (state, reason), numbers in sorted(reasons.items())
    ]
    return Table.of(("state", "reason", "how many", "trials"), rows)


def _provenance(outcome: Outcome) -> str:
    """The devices and versions that the figures come from."""
    environments = [record.environment for record in outcome.records.values()]
    devices = sorted({environment.device for environment in environments} - {""})
    versions = {f"{name} {text}" for e in environments for name, text in e.versions.items()}
    return " · ".join([*devices, *sorted(versions)])


def _key_cell(key: str) -> Markup:
    return Markup('<code title="{}">{}</code>').format(key, key[:KEY_LETTERS])
