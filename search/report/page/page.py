"""``report.html``: a search on one page that needs nothing else, not even a script."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
from stillhouse.search.report.core.markup import Html, element, join, table
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import KEY_LETTERS, Participants, is_assembly_part
from stillhouse.search.report.page.assembly_table import assembly_section
from stillhouse.search.report.page.comparison import comparison_table, setting_text
from stillhouse.search.report.page.style import SCRIPT, STYLE
from stillhouse.search.report.pictures import factorial
from stillhouse.search.results.outcome import Outcome, TrialResult
from stillhouse.search.results.statistics import best_seed_runs, ranking

MAX_BEST_TRIALS = 20
_COLLECTIVE_NAMES = {**formatting.PART_NAMES, "assemble": "assemblies to calibrate by"}


def render_page(
    outcome: Outcome,
    experiment: Mapping[str, Any],
    participants: Participants,
    pictures: Sequence[Picture],
    best_yaml: str,
) -> str:
    """The whole page; everything that comes from names, reasons and settings is escaped."""
    title = str(experiment.get("name", outcome.name))
    body = [
        element("h1", outcome.name),
        element("p", headline(outcome), class_="headline"),
        element("ul", *(element("li", sentence) for sentence in comparison_sentences(outcome))),
        element(
            "p",
            trials_sentence(outcome),
            " ",
            reuse_sentence(outcome, participants),
            class_="muted",
        ),
        *(
            element("p", sentence, class_="muted")
            for sentence in [screen_sentence(outcome)]
            if sentence
        ),
        *(_picture_element(picture) for picture in pictures),
        *_section("Without and with distillation", factorial.section(outcome)),
        *_section(
            "Settled over fresh seeds", comparison_table(outcome, experiment.get("search", {}))
        ),
        *_section("What was searched", _search_space_table(outcome, experiment)),
        *_section(
            "The best trials",
            _best_trials_table(outcome, participants, experiment.get("search", {})),
        ),
        *_section("Assemblies", assembly_section(outcome)),
        *_section("Shared stages", _stage_table(outcome, participants.shared)),
        *_section("Not finished", _unfinished_table(outcome)),
        *_section("Best configuration", element("pre", best_yaml) if best_yaml else None),
        *_section("All artifacts", _all_artifacts(outcome, participants)),
        _footer(outcome),
    ]
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", f"{outcome.name}: {title}" if title != outcome.name else title),
            Html(f"<style>{STYLE}</style>"),
        ]
    )
    sections = [head, element("main", *body), Html(f"<script>{SCRIPT}</script>")]
    return "<!doctype html>\n" + element("html", *_head_and_body(sections), lang="en") + "\n"


def _head_and_body(sections: Sequence[Html]) -> tuple[Html, Html]:
    head, *body = sections
    return element("head", head), element("body", *body)


def _section(title: str, content: Html | None) -> list[Html]:
    """A heading and what stands below it; nothing where there is nothing to tell."""
    return [element("h2", title), content] if content else []


def _picture_element(picture: Picture) -> Html:
    caption = element("figcaption", element("b", f"{picture.title}. "), picture.caption)
    figure = element("figure", Html(picture.inline()), caption)
    return join([figure, picture.below]) if picture.below else figure


def _search_space_table(outcome: Outcome, experiment: Mapping[str, Any]) -> Html | None:
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
    return table(("path", "values", column, "importance"), rows) if rows else None


def _importance_text(path: str, importances: Mapping[str, float]) -> str:
    """A path's importance; a chain's is that of all its members."""
    prefix = f"{path.partition('*')[0]}" if "*" in path else f"{path}."
    shares = [
        share for name, share in importances.items() if name == path or name.startswith(prefix)
    ]
    return f"{100 * sum(shares):.0f} %" if shares else ""


def _link_values(path: str, values: Mapping[str, Any], domain: Any) -> str:
    """What a path with ``*`` came to for each link of a chain."""
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
) -> Html | None:
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
    return table([*columns, "key"], rows, sortable=True)


def _stage_table(outcome: Outcome, keys: Iterable[str]) -> Html | None:
    rows = [_stage_row(outcome, outcome.records[key]) for key in keys]
    columns = ("stage", "key", "", "seconds", "validation accuracy, %", "parameters")
    return table((*columns, "made from"), rows, sortable=True) if rows else None


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


def _all_artifacts(outcome: Outcome, participants: Participants) -> Html | None:
    """Students and what was made again over seeds: long, so it is folded away."""
    keys = [key for key in outcome.records if key not in participants.shared]
    keys.sort(key=lambda key: (outcome.records[key].name, outcome.records[key].made_at))
    content = _stage_table(outcome, keys)
    title = element("summary", f"{len(keys)} students, and stages made again over seeds")
    return element("details", title, content) if content else None


def _unfinished_table(outcome: Outcome) -> Html | None:
    """Trials that failed or were stopped, those with one reason together."""
    reasons: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for trial in outcome.trials:
        if trial.state != "finished":
            reasons[trial.state, trial.reason].append(trial.number)
    rows = [
        (state, reason, len(numbers), join(", ".join(map(str, numbers))))
        for (state, reason), numbers in sorted(reasons.items())
    ]
    return table(("state", "reason", "how many", "trials"), rows) if rows else None


def _footer(outcome: Outcome) -> Html:
    """The devices and versions that the figures come from."""
    environments = [record.environment for record in outcome.records.values()]
    devices = sorted({environment.device for environment in environments} - {""})
    versions = {f"{name} {text}" for e in environments for name, text in e.versions.items()}
    text = " · ".join([*devices, *sorted(versions)])
    return element("footer", text)


def _key_cell(key: str) -> Html:
    return element("code", key[:KEY_LETTERS], title=key)
