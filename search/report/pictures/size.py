"""Accuracy against size: every trial, teachers and assistants, the Pareto front, the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from stillhouse.search.core import formatting
from stillhouse.search.report.core.axes_choice import Plane, front, plane
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import Cast, Student
from stillhouse.search.report.core.roles import groups, known_roles
from stillhouse.search.report.pictures.cost_quality_plot import Canvas
from stillhouse.search.results.outcome import Outcome, Repeated


def draw(outcome: Outcome, cast: Cast) -> Picture | None:
    """The picture; none where no student has both figures."""
    spanned = plane(outcome.goals)
    students = [s for s in cast.students if spanned.holds(s)]
    shared = [s for s in cast.shared.values() if spanned.holds(s)]
    repeats = [(role, r) for role, r in _settled(outcome) if _measured(r, spanned)]
    if not students:
        return None
    if any(role == "assembled" for role, _ in repeats):
        shared = [s for s in shared if s.record.kind != "assemble"]
    teachers = [s for s in shared if s.record.kind != "assemble"]
    best, figure = front(students, spanned), Figure()
    canvas = Canvas(figure, spanned, lines=2 if len({role for role, _ in repeats}) > 3 else 1)
    canvas.stake_out(students, shared, [r for _, r in repeats])
    canvas.staircase(best)
    canvas.students(students)
    for one in shared:
        canvas.teacher(one)
    canvas.name_teachers(teachers)
    for role, repeated in repeats:
        canvas.repeated(role, repeated)
    canvas.legend()
    quality, cost = formatting.name(spanned.quality.figure), formatting.name(spanned.cost.figure)
    title = f"{quality} against {cost}"
    caption = _caption(cast, students, best, canvas)
    return Picture("size", title[0].upper() + title[1:], caption, figure)


def _settled(outcome: Outcome) -> list[tuple[str, Repeated]]:
    """The best of each group, then the baselines, role by role."""
    found = groups(outcome)
    best = [("best", group.best) for group in found]
    return best + [
        (role, group.against[role])
        for role in known_roles(found)
        for group in found
        if role in group.against
    ]


def _measured(repeated: Repeated, plane: Plane) -> bool:
    wanted = {plane.cost.figure, plane.quality.figure}
    return all(wanted <= set(record.figures) for record in repeated.records)


def _caption(
    cast: Cast, students: Sequence[Student], best: Sequence[Student], canvas: Canvas
) -> str:
    told = [f"{len(students)} students"]
    if missing := len(cast.students) - len(students):
        told.append(f"{missing} more without these figures are not shown")
    if len(best) > 1:
        told.append(f"the line joins the {len(best)} that none beats in both")
    told.append("dots of one size lie beside each other")
    if canvas.beyond:
        told.append(f"the {canvas.beyond} triangles at the edge lie beyond it")
    if canvas.squares:
        told.append(
            "large marks are means over seeds with one standard deviation, set to the right where "
            "they would cover others"
        )
    if canvas.low:
        told.append("figures at the edge are of assemblies that lie beyond it")
    return "; ".join(told) + "."
