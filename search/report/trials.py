"""``trials.csv``: one row a trial."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stillhouse.search.core.durable import write_atomically
from stillhouse.search.report.core.participants import KEY_LETTERS
from stillhouse.search.results.outcome import Outcome, TrialResult


def write_trial_table(outcome: Outcome, path: Path) -> Path:
    """Number, state, reason, every searched value, every figure, and the keys as ``key.<label>``.

    ``feasible`` and ``reused`` are as in :class:`TrialResult`; ``screen_column`` says what a screen
    said, where there was one. Numbers are written in full, lists and mappings as JSON; what does
    not apply is empty.
    """
    trials = outcome.trials
    values, figures = _all_names(t.values for t in trials), _all_names(t.figures for t in trials)
    labels = _all_names(trial.stage_keys for trial in trials)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    screen_column = ["screen"] if any(trial.screen for trial in trials) else []
    header = ["number", "state", "feasible", "reused", "reason", *screen_column, *values, *figures]
    writer.writerow([*header, *(f"key.{label}" for label in labels)])
    for trial in trials:
        keys = [trial.stage_keys.get(label, "")[:KEY_LETTERS] for label in labels]
        searched = [_cell(trial.values.get(name, "")) for name in values]
        metrics = [_cell(trial.figures.get(name, "")) for name in figures]
        verdicts = [trial.screen.said if trial.screen else "" for _ in screen_column]
        writer.writerow([*_state_cells(trial), *verdicts, *searched, *metrics, *keys])
    return write_atomically(path, text.getvalue())


def _state_cells(trial: TrialResult) -> list[Any]:
    return [trial.number, trial.state, _cell(trial.feasible), _cell(trial.reused), trial.reason]


def _all_names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """All names, in the order in which they first turn up."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
