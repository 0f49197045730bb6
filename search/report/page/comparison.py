"""The table of configurations over fresh seeds: spread, ties, seconds an epoch."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.search.core import formatting
from stillhouse.search.experiment.setting_paths import with_wildcard
from stillhouse.search.report.core.headline import difference_text
from stillhouse.search.report.core.roles import ROLE_STYLES, ComparisonGroup, comparison_groups
from stillhouse.search.report.core.table import Table
from stillhouse.search.results.outcome import Outcome, SeedRuns
from stillhouse.search.results.statistics import mean_and_spread


def comparison_table(outcome: Outcome, space: Mapping[str, Any]) -> Table | None:
    """A row a configuration, each group's best first and its baselines last.

    Each is compared with the best of its group, and with the plain student if there is one.

    Args:
        space: the experiment's ``search``.
    """
    all_groups, metric = comparison_groups(outcome), outcome.goals[0].figure
    if not any(group.runners_up or group.baselines for group in all_groups):
        return None
    values = {f"trial {trial.number}": trial.values for trial in outcome.trials}
    all_seed_runs = [r for group in all_groups for r in (group.best_runs, *group.runners_up)]
    paths = list(dict.fromkeys(path for r in all_seed_runs for path in values.get(r.role, {})))
    names = formatting.distinct_suffixes(paths)
    has_groups = any(group.name for group in all_groups)
    columns = [
        *(["of"] if has_groups else []),
        "configuration",
        *(names[path] for path in paths),
        formatting.axis_label(metric),
        "seeds",
        "seconds an epoch",
        "against the best",
        "against plain",
    ]
    rows = [
        (
            *([group.name] if has_groups else []),
            ROLE_STYLES[r.role].label if r.role in ROLE_STYLES else r.role,
            *(setting_text(path, values.get(r.role, {}), space) for path in paths),
            mean_and_spread(metric, r),
            len(r.records),
            _seconds_per_epoch(r),
            _difference_text(r, group.best_runs, metric),
            _difference_text(r, group.baselines.get("plain"), metric),
        )
        for group in all_groups
        for r in _group_rows(group)
    ]
    return Table.of(columns, rows, sortable=True)


def _group_rows(group: ComparisonGroup) -> Iterator[SeedRuns]:
    yield group.best_runs
    yield from group.runners_up
    yield from group.baselines.values()


def setting_text(path: str, values: Mapping[str, Any], space: Mapping[str, Any]) -> str:
    """The value of a configuration at a path; empty if the path does not apply."""
    if path not in values:
        return ""
    return formatting.format_setting(
        values[path], space.get(path) or space.get(with_wildcard(path)), path
    )


def _seconds_per_epoch(seed_runs: SeedRuns) -> str:
    """The median over all epochs of all seeds."""
    seconds = [
        epoch["seconds"] for r in seed_runs.records for epoch in r.curve if "seconds" in epoch
    ]
    return f"{statistics.median(seconds):.2f}" if seconds else ""


def _difference_text(seed_runs: SeedRuns, other: SeedRuns | None, metric: str) -> str:
    """The difference between a row and another; empty for the row itself."""
    return "" if other is None or other is seed_runs else difference_text(seed_runs, other, metric)
