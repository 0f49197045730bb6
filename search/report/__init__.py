"""The report of a search: pictures, a table of its trials, and one page that holds it all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stillhouse.search.core.durable import write_whole
from stillhouse.search.results.outcome import Outcome

__all__ = ["write_report"]


def write_report(
    outcome: Outcome,
    experiment: Mapping[str, Any],
    folder: Path,
    best_yaml: str = "",
    opened: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> list[Path]:
    """Write ``trials.csv``, ``report.html`` and every picture, as SVG and PNG, into ``folder``.

    Pictures that would be empty are left out.

    Args:
        outcome: what the search came to; it may be without any finished trial.
        experiment: the experiment as plain data.
        folder: must be there; files of the same names are replaced.
        best_yaml: the best configuration as an experiment file.
        opened: tensors by artifact's key, where a picture shows what was made.

    Returns:
        The files written.
    """
    # Here, since matplotlib takes a second, which a search's first trial need not wait for.
    from stillhouse.search.report.core.mpl_style import look
    from stillhouse.search.report.core.participants import cast
    from stillhouse.search.report.page.page import page
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
    from stillhouse.search.report.trials import write_trials

    taking_part = cast(outcome, experiment)
    files = [write_trials(outcome, folder / "trials.csv")]
    with look():
        drawn = (
            factorial.draw(outcome),
            seeds.draw(outcome),
            size.draw(outcome, taking_part),
            tree.draw(outcome, taking_part),
            assemblies.draw(outcome),
            prediction.draw(outcome),
            screen.draw(outcome),
            distilled.draw(outcome, opened or {}),
            curves.draw(outcome, taking_part),
            influence.draw(outcome, experiment.get("search", {})),
        )
        pictures = [picture for picture in drawn if picture]
        for picture in pictures:
            files += picture.save(folder)
        text = page(outcome, experiment, taking_part, pictures, best_yaml)
    report = folder / "report.html"
    write_whole(report, text)
    return [*files, report]
