"""The report of a search: pictures, a table of its trials, and one page that holds it all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stillhouse.search.core.durable import write_atomically
from stillhouse.search.results.outcome import Outcome

__all__ = ["write_report"]


def write_report(
    outcome: Outcome,
    experiment: Mapping[str, Any],
    folder: Path,
    best_yaml: str = "",
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> list[Path]:
    """Write ``trials.csv``, ``report.html`` and every picture, as SVG and PNG, into ``folder``.

    Pictures that would be empty are left out.

    Args:
        outcome: the results of the search; possibly without a finished trial.
        experiment: the experiment as plain data.
        folder: must be there; files of the same names are replaced.
        best_yaml: the best configuration as an experiment file.
        tensors: tensors by artifact's key, where a picture shows what was made.

    Returns:
        The files written.
    """
    # Here, since matplotlib takes a second, which a search's first trial need not wait for.
    from stillhouse.search.report.core.mpl_style import use_style
    from stillhouse.search.report.core.participants import find_participants
    from stillhouse.search.report.page.page import render_page
    from stillhouse.search.report.pictures import (
        assemblies,
        curves,
        distilled,
        factorial,
        influence,
        prediction,
        screen,
        seeds,
        size,
        tree,
    )
    from stillhouse.search.report.trials import write_trial_table

    participants = find_participants(outcome, experiment)
    files = [write_trial_table(outcome, folder / "trials.csv")]
    with use_style():
        maybe_pictures = (
            factorial.draw(outcome),
            seeds.draw(outcome),
            size.draw(outcome, participants),
            tree.draw(outcome, participants),
            assemblies.draw(outcome),
            prediction.draw(outcome),
            screen.draw(outcome),
            distilled.draw(outcome, tensors or {}),
            curves.draw(outcome, participants),
            influence.draw(outcome, experiment.get("search", {})),
        )
        pictures = [picture for picture in maybe_pictures if picture]
        for picture in pictures:
            files += picture.save(folder)
        html = render_page(outcome, experiment, participants, pictures, best_yaml)
    page_path = folder / "report.html"
    write_atomically(page_path, html)
    return [*files, page_path]
