"""``diagnosis.html``: what a teacher knows, and what a student learns from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from stillhouse.search.core import formatting
from stillhouse.search.core.durable import write_atomically
from stillhouse.search.evaluation.diagnosis import METRIC, VARIANTS, Diagnosis
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.table import Table
from stillhouse.search.report.page.rendering import render
from stillhouse.search.results.statistics import mean_and_spread


def write_diagnosis(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write ``diagnosis.json``, ``diagnosis.html`` and the picture into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    json_path = folder / "diagnosis.json"
    write_atomically(json_path, json.dumps(diagnosis.plain(), indent=1) + "\n")
    with mpl_style.use_style():
        picture = _draw_picture(diagnosis)
        files = [json_path, *picture.save(folder)]
        page_path = folder / "diagnosis.html"
        write_atomically(page_path, _render_page(diagnosis, picture))
    return [*files, page_path]


def variant_rows(diagnosis: Diagnosis) -> list[tuple[str, str, str, str, str]]:
    """A row a student: its source, accuracy, gain over plain, share of the gain, tie or not."""
    cells = []
    for student in diagnosis.students:
        share = diagnosis.gain_share(student)
        is_plain = student is diagnosis.students[0]
        cells.append(
            (
                VARIANTS[student.role],
                mean_and_spread(METRIC, student),
                "" if is_plain else f"{100 * diagnosis.gain(student):+.2f}",
                "" if is_plain or share is None else f"{100 * share:.0f} %",
                "tie" if not is_plain and diagnosis.is_tie(student) else "",
            )
        )
    return cells


VARIANT_COLUMNS = (
    "learns from",
    "validation accuracy",
    "gain, points",
    "share of the gain",
    "against plain",
)


def diagnosis_sentences(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis in words."""
    figures = diagnosis.figures
    yield (
        f"{diagnosis.teacher} gives the true class {100 * figures['validation_confidence']:.1f} % "
        f"on average ({100 * figures['train_confidence']:.1f} % where it was trained), with an "
        f"entropy of {figures['validation_entropy']:.3f} nats and a calibration error of "
        f"{figures['validation_ece']:.3f}."
    )
    saturated = figures["train_saturated"]
    weighs = "hardly weighs examples" if saturated > 0.5 else "weighs examples"
    yield (
        f"It is beyond 1 - 1e-4 on {100 * saturated:.0f} % of the training images: its confidence "
        f"{weighs}."
    )
    relations = "erased, as label smoothing does" if figures["erased"] else "there to be learnt"
    yield (
        f"Its class weights have cosines that spread by {figures['spread']:.3f} (chance: "
        f"{figures['chance']:.3f}): relations between classes are {relations}."
    )
    soft_targets = diagnosis.students[-1]
    if diagnosis.gain_share(soft_targets) is None:
        yield "Soft targets gain nothing over labels that other seeds could not."
        return
    parts = [
        s for s in diagnosis.students[1:-1] if not diagnosis.is_tie(s) and diagnosis.gain(s) > 0
    ]
    if not parts:
        yield "No part alone gains more than other seeds could."
        return
    best_part = max(parts, key=diagnosis.gain)
    share = diagnosis.gain(best_part) / diagnosis.gain(soft_targets)
    yield (
        f"Most of the gain of soft targets: {VARIANTS[best_part.role]}, {100 * share:.0f} % of it."
    )


def _draw_picture(diagnosis: Diagnosis) -> Picture:
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.25))
    image = left.imshow(diagnosis.cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    left.set_title("cosines of class weights")
    left.grid(False)
    figure.colorbar(image, ax=left, shrink=0.75)
    names = [VARIANTS[s.role] for s in diagnosis.students]
    for index, student in enumerate(diagnosis.students):
        values = [100 * value for value in student.values(METRIC)]
        is_faint = index == 0 or diagnosis.is_tie(student)
        colour = mpl_style.PLAIN if is_faint else mpl_style.TRIAL
        right.scatter(values, [-index] * len(values), s=14, color=colour, alpha=0.6, lw=0)
        right.scatter([100 * student.mean(METRIC)], [-index], s=70, marker="|", color=colour)
    right.set_yticks([-index for index in range(len(names))], names)
    right.tick_params("y", labelcolor=mpl_style.FOREGROUND, labelsize=8)
    right.set_xlabel(formatting.axis_label(METRIC))
    caption = (
        "Left: how alike the teacher takes its classes to be. Right: students of one budget by "
        "what they learn from, a dot a seed, a bar their mean; grey: labels alone, and ties "
        "with them."
    )
    return Picture("diagnosis", "What the teacher teaches", caption, figure)


def _render_page(diagnosis: Diagnosis, picture: Picture) -> str:
    figures = [
        (n.replace("_", " "), formatting.format_number(n, v)) for n, v in diagnosis.figures.items()
    ]
    return render(
        "diagnosis.html.j2",
        name=diagnosis.name,
        title=f"{diagnosis.name}: teacher",
        sentences=list(diagnosis_sentences(diagnosis)),
        picture=picture,
        gains=Table.of(VARIANT_COLUMNS, variant_rows(diagnosis)),
        figures=Table.of(("figure", "value"), figures),
    )
