"""``report.html``: a search on one page that needs nothing else, not even a script."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.core import formatting
from stillhouse.search.report.core.axes_choice import front, plane
from stillhouse.search.report.core.headline import comparisons, headline, screening, sharing, trials
from stillhouse.search.report.core.markup import Html, element, join, table
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import SHORT, Cast, is_part
from stillhouse.search.report.page.assembly_table import inventory
from stillhouse.search.report.page.comparison import comparison, setting
from stillhouse.search.report.page.style import SCRIPT, STYLE
from stillhouse.search.report.pictures import factorial
from stillhouse.search.results.outcome import Outcome, Trial
from stillhouse.search.results.statistics import champion, ranking

BEST = 20
_TOGETHER = {**formatting.PARTS, "assemble": "assemblies to calibrate by"}


def page(
    outcome: Outcome,
    experiment: Mapping[str, Any],
    cast: Cast,
    pictures: Sequence[Picture],
    best_yaml: str,
) -> str:
    """The whole page; everything that comes from names, reasons and settings is escaped."""
    about = str(experiment.get("name", outcome.name))
    body = [
        element("h1", outcome.name),
        element("p", headline(outcome), class_="headline"),
        element("ul", *(element("li", told) for told in comparisons(outcome))),
        element("p", trials(outcome), " ", sharing(outcome, cast), class_="muted"),
        *(element("p", told, class_="muted") for told in [screening(outcome)] if told),
        *(_picture(picture) for picture in pictures),
        *_section("Without and with distillation", factorial.section(outcome)),
        *_section("Settled over fresh seeds", comparison(outcome, experiment.get("search", {}))),
        *_section("What was searched", _searched(outcome, experiment)),
        *_section("The best trials", _best(outcome, cast, experiment.get("search", {}))),
        *_section("Assemblies", inventory(outcome)),
        *_section("Shared stages", _stages(outcome, cast.shared)),
        *_section("Not finished", _failures(outcome)),
        *_section("Best configuration", element("pre", best_yaml) if best_yaml else None),
        *_section("All artifacts", _all_stages(outcome, cast)),
        _footer(outcome),
    ]
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", f"{outcome.name}: {about}" if about != outcome.name else about),
            Html(f"<style>{STYLE}</style>"),
        ]
    )
    whole = [head, element("main", *body), Html(f"<script>{SCRIPT}</script>")]
    return "<!doctype html>\n" + element("html", *_halves(whole), lang="en") + "\n"


def _halves(whole: Sequence[Html]) -> tuple[Html, Html]:
    head, *rest = whole
    return element("head", head), element("body", *rest)


def _section(title: str, inside: Html | None) -> list[Html]:
    """A heading and what stands below it; nothing where there is nothing to tell."""
    return [element("h2", title), inside] if inside else []


def _picture(picture: Picture) -> Html:
    caption = element("figcaption", element("b", f"{picture.title}. "), picture.caption)
    figure = element("figure", Html(picture.inline()), caption)
    return join([figure, picture.below]) if picture.below else figure


def _searched(outcome: Outcome, experiment: Mapping[str, Any]) -> Html | None:
    """Every searched path, its values, the best configuration's, and how much it mattered."""
    space: Mapping[str, Any] = experiment.get("search", {})
    best, ranked = champion(outcome), ranking(outcome)
    chosen: Trial | None = ranked[0] if ranked else None
    if best:
        chosen = next((t for t in ranked if best.role == f"trial {t.number}"), chosen)
    values, shares = chosen.values if chosen else {}, outcome.importances.items()
    rows = [
        (
            path,
            formatting.domain(domain, path),
            formatting.setting(values[path], domain, path)
            if path in values
            else _links(path, values, domain),
            _share(path, {p: x for p, x in shares if p == path or p not in space}),
        )
        for path, domain in space.items()
    ]
    title = f"in trial {chosen.number}" if chosen else "chosen"
    return table(("path", "values", title, "importance"), rows) if rows else None


def _share(path: str, importances: Mapping[str, float]) -> str:
    """A path's importance; a chain's is that of all its members."""
    start = f"{path.partition('*')[0]}" if "*" in path else f"{path}."
    found = [share for name, share in importances.items() if name == path or name.startswith(start)]
    return f"{100 * sum(found):.0f} %" if found else ""


def _links(path: str, values: Mapping[str, Any], domain: Any) -> str:
    """What a path with ``*`` came to for each link of a chain."""
    before, star, behind = path.partition("*")
    found = {
        place.removeprefix(before).removesuffix(behind): value
        for place, value in values.items()
        if star and place.startswith(before) and place.endswith(behind)
    }
    return ", ".join(
        f"{link}: {formatting.setting(value, domain)}" for link, value in found.items()
    )


def _best(outcome: Outcome, cast: Cast, space: Mapping[str, Any]) -> Html | None:
    """The best trials with their searched values; those of the Pareto front are marked."""
    ranked = ranking(outcome)[:BEST]
    if not ranked:
        return None
    on_front = {s.trial.number for s in front(cast.students, plane(outcome.goals))}
    figures = list(dict.fromkeys([*(g.figure for g in outcome.goals), "parameters"]))
    paths = list(dict.fromkeys(path for trial in ranked for path in trial.values))
    rows = [
        (
            trial.number,
            *(formatting.number(f, trial.figures.get(f, math.nan)) for f in figures),
            "yes" if trial.number in on_front else "",
            *(setting(path, trial.values, space) for path in paths),
            _key(list(trial.keys.values())[-1]) if trial.keys else "",
        )
        for trial in ranked
    ]
    names = formatting.distinct(paths)
    heads = ["trial", *map(formatting.axis, figures), "Pareto front", *(names[p] for p in paths)]
    return table([*heads, "key"], rows, sortable=True)


def _stages(outcome: Outcome, keys: Iterable[str]) -> Html | None:
    rows = [_stage(outcome, outcome.stages[key]) for key in keys]
    heads = ("stage", "key", "", "seconds", "validation accuracy, %", "parameters")
    return table((*heads, "made from"), rows, sortable=True) if rows else None


def _stage(outcome: Outcome, record: Record) -> tuple[Any, ...]:
    key, figures = record.key, record.figures
    state = "reused" if key in outcome.reused else "made" if key in outcome.made else ""
    return (
        outcome.labels.get(key, record.name),
        _key(key),
        state,
        f"{record.seconds:.1f}",
        formatting.number("val_accuracy", figures.get("val_accuracy", math.nan)),
        formatting.number("parameters", figures.get("parameters", math.nan)),
        _made_from(outcome, record),
    )


def _made_from(outcome: Outcome, record: Record) -> str:
    """Its parents' names; the parts of an assembly, which are many, by their number."""
    known = [(parent, outcome.stages.get(parent)) for parent in record.parents]
    named = [parent for parent, made in known if made is None or not is_part(made)]
    told = [outcome.labels.get(parent, parent[:SHORT]) for parent in named]
    counts = Counter(made.kind for _, made in known if made is not None and is_part(made))
    return ", ".join(
        told + [f"{counts[kind]} {many}" for kind, many in _TOGETHER.items() if counts[kind]]
    )


def _all_stages(outcome: Outcome, cast: Cast) -> Html | None:
    """Students and what was made again over seeds: long, so it is folded away."""
    rest = [key for key in outcome.stages if key not in cast.shared]
    rest.sort(key=lambda key: (outcome.stages[key].name, outcome.stages[key].made_at))
    inside = _stages(outcome, rest)
    title = element("summary", f"{len(rest)} students, and stages made again over seeds")
    return element("details", title, inside) if inside else None


def _failures(outcome: Outcome) -> Html | None:
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
    facts = [record.facts for record in outcome.stages.values()]
    devices = sorted({str(fact["device"]) for fact in facts if "device" in fact})
    versions = {
        f"{name} {version}" for fact in facts for name, version in fact.get("versions", {}).items()
    }
    told = " · ".join([*devices, *sorted(versions)])
    return element("footer", told)


def _key(key: str) -> Html:
    return element("code", key[:SHORT], title=key)
