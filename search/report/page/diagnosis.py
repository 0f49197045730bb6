"""``diagnosis.html``: what a teacher has to teach, and what of it a student takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from stillhouse.search.core import formatting
from stillhouse.search.core.durable import write_whole
from stillhouse.search.evaluation.diagnosis import FIGURE, VARIANTS, Diagnosis
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.markup import Html, element, join, table
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.page.style import STYLE
from stillhouse.search.results.statistics import mean_and_spread


def write_diagnosis(found: Diagnosis, folder: Path) -> list[Path]:
    """Write ``diagnosis.json``, ``diagnosis.html`` and the picture into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "diagnosis.json"
    write_whole(plain, json.dumps(found.plain(), indent=1) + "\n")
    with look.look():
        picture = _draw(found)
        files = [plain, *picture.save(folder)]
        page = folder / "diagnosis.html"
        write_whole(page, _page(found, picture))
    return [*files, page]


def rows(found: Diagnosis) -> list[tuple[str, str, str, str, str]]:
    """A line a student: what it learns from, accuracy, gain over plain, share of it, tie or not."""
    told = []
    for student in found.students:
        share = found.share(student)
        first = student is found.students[0]
        told.append(
            (
                VARIANTS[student.role],
                mean_and_spread(FIGURE, student),
                "" if first else f"{100 * found.gain(student):+.2f}",
                "" if first or share is None else f"{100 * share:.0f} %",
                "tie" if not first and found.tie(student) else "",
            )
        )
    return told


COLUMNS = (
    "learns from",
    "validation accuracy",
    "gain, points",
    "share of the gain",
    "against plain",
)


def sentences(found: Diagnosis) -> Iterator[str]:
    """The diagnosis in words."""
    f = found.figures
    yield (
        f"{found.teacher} gives the true class {100 * f['validation_confidence']:.1f} % on average "
        f"({100 * f['train_confidence']:.1f} % where it was trained), with an entropy of "
        f"{f['validation_entropy']:.3f} nats and a calibration error of {f['validation_ece']:.3f}."
    )
    saturated = f["train_saturated"]
    weighs = "hardly weighs examples" if saturated > 0.5 else "weighs examples"
    yield (
        f"It is beyond 1 - 1e-4 on {100 * saturated:.0f} % of the training images: its confidence "
        f"{weighs}."
    )
    verdict = "erased, as label smoothing does" if f["erased"] else "there to be learnt"
    yield (
        f"Its class weights have cosines that spread by {f['spread']:.3f} (chance: "
        f"{f['chance']:.3f}): relations between classes are {verdict}."
    )
    whole = found.students[-1]
    if found.share(whole) is None:
        yield "Soft targets gain nothing over labels that other seeds could not."
        return
    parts = [s for s in found.students[1:-1] if not found.tie(s) and found.gain(s) > 0]
    if not parts:
        yield "No part alone gains more than other seeds could."
        return
    best = max(parts, key=found.gain)
    share = found.gain(best) / found.gain(whole)
    yield f"Most of the gain of soft targets: {VARIANTS[best.role]}, {100 * share:.0f} % of it."


def _draw(found: Diagnosis) -> Picture:
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.25))
    shown = left.imshow(found.cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    left.set_title("cosines of class weights")
    left.grid(False)
    figure.colorbar(shown, ax=left, shrink=0.75)
    names = [VARIANTS[s.role] for s in found.students]
    for place, student in enumerate(found.students):
        values = [100 * value for value in student.values(FIGURE)]
        faint = place == 0 or found.tie(student)
        colour = look.PLAIN if faint else look.TRIAL
        right.scatter(values, [-place] * len(values), s=14, color=colour, alpha=0.6, lw=0)
        right.scatter([100 * student.mean(FIGURE)], [-place], s=70, marker="|", color=colour)
    right.set_yticks([-place for place in range(len(names))], names)
    right.tick_params("y", labelcolor=look.INK, labelsize=8)
    right.set_xlabel(formatting.axis(FIGURE))
    caption = (
        "Left: how alike the teacher takes its classes to be. Right: students of one budget by "
        "what they learn from, a dot a seed, a bar their mean; grey: labels alone, and ties "
        "with them."
    )
    return Picture("diagnosis", "What the teacher teaches", caption, figure)


def _page(found: Diagnosis, picture: Picture) -> str:
    figures = [(n.replace("_", " "), formatting.number(n, v)) for n, v in found.figures.items()]
    caption = element("figcaption", element("b", f"{picture.title}. "), picture.caption)
    body = [
        element("h1", f"{found.name}: the teacher"),
        element("ul", *(element("li", told) for told in sentences(found))),
        element("figure", Html(picture.inline()), caption),
        element("h2", "What explains the gain"),
        table(COLUMNS, rows(found)),
        element("h2", "The teacher's figures"),
        table(("figure", "value"), figures),
    ]
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", f"{found.name}: teacher"),
            Html(f"<style>{STYLE}</style>"),
        ]
    )
    whole = element("html", element("head", head), element("body", element("main", *body)))
    return f"<!doctype html>\n{whole}\n"
