"""Everything that was settled over fresh seeds, in one table: spread, ties, seconds an epoch."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.search.core import formatting
from stillhouse.search.experiment.setting_paths import starred
from stillhouse.search.report.core.headline import difference
from stillhouse.search.report.core.markup import Html, table
from stillhouse.search.report.core.roles import ROLES, Group, groups
from stillhouse.search.results.outcome import Outcome, Repeated
from stillhouse.search.results.statistics import mean_and_spread


def comparison(outcome: Outcome, space: Mapping[str, Any]) -> Html | None:
    """A row a configuration, each group's best first and its baselines last.

    Each is held against the best of its group, and against the plain student where there is one.

    Args:
        space: the experiment's ``search``.
    """
    found, figure = groups(outcome), outcome.goals[0].figure
    if not any(group.others or group.against for group in found):
        return None
    values = {f"trial {trial.number}": trial.values for trial in outcome.trials}
    repeated = [r for group in found for r in (group.best, *group.others)]
    paths = list(dict.fromkeys(path for r in repeated for path in values.get(r.role, {})))
    names = formatting.distinct(paths)
    grouped = any(group.name for group in found)
    heads = [
        *(["of"] if grouped else []),
        "configuration",
        *(names[path] for path in paths),
        formatting.axis(figure),
        "seeds",
        "seconds an epoch",
        "against the best",
        "against plain",
    ]
    rows = [
        (
            *([group.name] if grouped else []),
            ROLES[r.role].short if r.role in ROLES else r.role,
            *(setting(path, values.get(r.role, {}), space) for path in paths),
            mean_and_spread(figure, r),
            len(r.records),
            _pace(r),
            _against(r, group.best, figure),
            _against(r, group.against.get("plain"), figure),
        )
        for group in found
        for r in _members(group)
    ]
    return table(heads, rows, sortable=True)


def _members(group: Group) -> Iterator[Repeated]:
    yield group.best
    yield from group.others
    yield from group.against.values()


def setting(path: str, values: Mapping[str, Any], space: Mapping[str, Any]) -> str:
    """What a configuration had at a path; nothing where it did not apply."""
    if path not in values:
        return ""
    return formatting.setting(values[path], space.get(path) or space.get(starred(path)), path)


def _pace(repeated: Repeated) -> str:
    """The median over all epochs of all seeds."""
    taken = [epoch["seconds"] for r in repeated.records for epoch in r.curve if "seconds" in epoch]
    return f"{statistics.median(taken):.2f}" if taken else ""


def _against(repeated: Repeated, other: Repeated | None, figure: str) -> str:
    """How a row stands to another; nothing of a row itself."""
    return "" if other is None or other is repeated else difference(repeated, other, figure)
