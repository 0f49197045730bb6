"""Accuracy against size: every trial, teachers and assistants, the Pareto front, the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from stillhouse.search.core import formatting
from stillhouse.search.report.core.axes_choice import MetricAxes, choose_metric_axes, pareto_front
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import Participants, Student
from stillhouse.search.report.core.roles import comparison_groups, present_roles
from stillhouse.search.report.pictures.cost_quality_plot import CostQualityPlot
from stillhouse.search.results.outcome import Outcome, SeedRuns


def draw(outcome: Outcome, participants: Participants) -> Picture | None:
    """The picture; none where no student has both figures."""
    metric_axes = choose_metric_axes(outcome.goals)
    students = [s for s in participants.students if metric_axes.has_both(s)]
    shared = [s for s in participants.shared.values() if metric_axes.has_both(s)]
    seed_runs_by_role = [
        (role, r) for role, r in _best_and_baselines(outcome) if _has_both_metrics(r, metric_axes)
    ]
    if not students:
        return None
    if any(role == "assembled" for role, _ in seed_runs_by_role):
        shared = [s for s in shared if s.record.kind != "assemble"]
    teachers = [s for s in shared if s.record.kind != "assemble"]
    front_students, figure = pareto_front(students, metric_axes), Figure()
    plot = CostQualityPlot(
        figure,
        metric_axes,
        legend_lines=2 if len({role for role, _ in seed_runs_by_role}) > 3 else 1,
    )
    plot.set_limits(students, shared, [r for _, r in seed_runs_by_role])
    plot.draw_pareto_front(front_students)
    plot.draw_students(students)
    for stage in shared:
        plot.draw_teacher(stage)
    plot.label_teachers(teachers)
    for role, seed_runs in seed_runs_by_role:
        plot.draw_seed_runs(role, seed_runs)
    plot.draw_legend()
    quality, cost = (
        formatting.metric_label(metric_axes.quality.figure),
        formatting.metric_label(metric_axes.cost.figure),
    )
    title = f"{quality} against {cost}"
    caption = _caption(participants, students, front_students, plot)
    return Picture("size", title[0].upper() + title[1:], caption, figure)


def _best_and_baselines(outcome: Outcome) -> list[tuple[str, SeedRuns]]:
    """The best of each group, then the baselines, role by role."""
    all_groups = comparison_groups(outcome)
    best_by_group = [("best", group.best_runs) for group in all_groups]
    return best_by_group + [
        (role, group.baselines[role])
        for role in present_roles(all_groups)
        for group in all_groups
        if role in group.baselines
    ]


def _has_both_metrics(seed_runs: SeedRuns, metric_axes: MetricAxes) -> bool:
    metrics = {metric_axes.cost.figure, metric_axes.quality.figure}
    return all(metrics <= set(record.figures) for record in seed_runs.records)


def _caption(
    participants: Participants,
    students: Sequence[Student],
    front_students: Sequence[Student],
    plot: CostQualityPlot,
) -> str:
    clauses = [f"{len(students)} students"]
    if num_hidden := len(participants.students) - len(students):
        clauses.append(f"{num_hidden} more without these figures are not shown")
    if len(front_students) > 1:
        clauses.append(f"the line joins the {len(front_students)} that none beats in both")
    clauses.append("dots of one size lie beside each other")
    if plot.num_beyond:
        clauses.append(f"the {plot.num_beyond} triangles at the edge lie beyond it")
    if plot.num_seed_marks:
        clauses.append(
            "large marks are means over seeds with one standard deviation, set to the right where "
            "they would cover others"
        )
    if plot.num_assemblies_beyond:
        clauses.append("figures at the edge are of assemblies that lie beyond it")
    return "; ".join(clauses) + "."
