"""``trials.csv``: one row a trial, for whoever wants to look for themselves."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stillhouse.search.core.durable import write_whole
from stillhouse.search.report.core.participants import SHORT
from stillhouse.search.results.outcome import Outcome, Trial


def write_trials(outcome: Outcome, path: Path) -> Path:
    """Number, state, reason, every searched value, every figure, and the keys as ``key.<label>``.

    ``feasible`` and ``reused`` are as in :class:`Trial`; ``screen`` says what a screen said, where
    there was one. Numbers are written in full, lists and
    mappings as JSON; what does not apply is empty.
    """
    trials = outcome.trials
    values, figures = _names(t.values for t in trials), _names(t.figures for t in trials)
    labels = _names(trial.keys for trial in trials)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    screen = ["screen"] if any(trial.screen for trial in trials) else []
    header = ["number", "state", "feasible", "reused", "reason", *screen, *values, *figures]
    writer.writerow([*header, *(f"key.{label}" for label in labels)])
    for trial in trials:
        keys = [trial.keys.get(label, "")[:SHORT] for label in labels]
        searched = [_cell(trial.values.get(name, "")) for name in values]
        reached = [_cell(trial.figures.get(name, "")) for name in figures]
        said = [trial.screen.said if trial.screen else "" for _ in screen]
        writer.writerow([*_about(trial), *said, *searched, *reached, *keys])
    return write_whole(path, text.getvalue())


def _about(trial: Trial) -> list[Any]:
    return [trial.number, trial.state, _cell(trial.feasible), _cell(trial.reused), trial.reason]


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """All names, in the order in which they first turn up."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
