"""The result of a search in sentences."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from stillhouse.search.core import formatting
from stillhouse.search.report.core.participants import Participants
from stillhouse.search.report.core.roles import ROLE_STYLES, ComparisonGroup, comparison_groups
from stillhouse.search.results.outcome import Outcome, SeedRuns
from stillhouse.search.results.screening import ScreenVerdict, screen_quality
from stillhouse.search.results.statistics import (
    best_seed_runs,
    complete_seed_runs,
    mean_and_spread,
    ranking,
    seconds_saved,
    verdict,
)
from stillhouse.spaces.config.limits import Limit

_STATE_TEXTS: Mapping[str, str] = {
    "finished": "finished",
    "pruned": "stopped early",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "not ended",
}


_VERDICT_TEXTS: Mapping[ScreenVerdict, str] = {
    "out": "screened out",
    "kept": "kept as the best of their round",
    "check": "trained to check the screen",
    "unscreened": "trained unscreened",
    "off": "trained after it was switched off",
}


def headline(outcome: Outcome) -> str:
    """The best student and its uncertainty, in one sentence."""
    best_runs, ranked, metric = best_seed_runs(outcome), ranking(outcome), outcome.goals[0].figure
    if best_runs:
        return (
            f"The best student ({best_runs.role}{_size_text(best_runs)}) reaches "
            f"{_mean_text(best_runs, metric)} "
            f"{formatting.metric_label(metric)} {_seeds_text(best_runs)}."
        )
    if not ranked:
        return "No trial has finished within the limits."
    value = formatting.format_value(metric, ranked[0].figures.get(metric, math.nan))
    return (
        f"The best of {len(ranked)} finished trials, trial {ranked[0].number}, reached {value} "
        f"{formatting.metric_label(metric)}. One seed only: no spread known, and since it "
        "was chosen by "
        "this figure it is likely to be a lucky one."
    )


def limit_violations(outcome: Outcome, seed_runs: SeedRuns) -> list[str]:
    """A sentence for each limit that the mean of a configuration over its seeds breaks."""
    return [
        f"Its mean {formatting.metric_label(metric)} over the seeds, "
        f"{formatting.format_value(metric, mean)}, "
        f"breaks the limit: {_limit_text(metric, outcome.limits[metric])}."
        for metric, mean in seed_runs.limit_violations(outcome.limits).items()
    ]


_COINCIDENCE_TEXTS: Mapping[str, str] = {
    "direct": "The best has no assistants: it is the direct student.",
    "plain": "The best has no teacher: it is the plain student.",
}


def coinciding_baselines(best_runs: SeedRuns) -> list[str]:
    """A sentence for each baseline that coincides with the best student."""
    return [
        _COINCIDENCE_TEXTS.get(role, f"The best is also {ROLE_STYLES[role].description}.")
        for role in best_runs.coincides_with
    ]


def limit_sentences(outcome: Outcome, best_runs: SeedRuns) -> list[str]:
    """What the limits did to the choice of ``best_runs``: those that it breaks, and who broke them.

    Named are configurations of its group that are better in the goal, but whose mean over the
    seeds breaks a limit.
    """
    goal = outcome.goals[0]
    sign = 1.0 if goal.maximize else -1.0
    better = [
        other
        for other in complete_seed_runs(outcome)
        if other.is_trial
        and other.group == best_runs.group
        and sign * (other.mean(goal.figure) - best_runs.mean(goal.figure)) > 0
    ]
    set_aside = [
        f"Set aside: {other.role}, with {_mean_text(other, goal.figure)}. {' '.join(violations)}"
        for other in better
        if (violations := limit_violations(outcome, other))
    ]
    return [*limit_violations(outcome, best_runs), *set_aside]


def _limit_text(metric: str, limit: Limit) -> str:
    bounds = {"at least": limit.min, "at most": limit.max}
    clauses = [
        f"{word} {formatting.format_value(metric, x)}"
        for word, x in bounds.items()
        if x is not None
    ]
    return " and ".join(clauses)


def comparison_sentences(outcome: Outcome) -> list[str]:
    """The best student (of each group) against its baselines and runners-up, and the test split."""
    all_groups, metric = comparison_groups(outcome), outcome.goals[0].figure
    sentences = [
        sentence
        for group in all_groups
        for sentence in (
            *_group_sentences(group, metric),
            *coinciding_baselines(group.best_runs),
            *limit_sentences(outcome, group.best_runs),
        )
    ]
    if any(
        "scratch" in group.baselines and "uniform" not in group.baselines for group in all_groups
    ):
        sentences.append(
            "Without a student of uniform width: the teacher's family has no width to set, or "
            "none keeps the budget."
        )
    return sentences + _test_sentences(outcome, all_groups)


def _group_sentences(group: ComparisonGroup, metric: str) -> Iterator[str]:
    """With a group's name in front of each sentence, where it has one."""
    best_runs = group.best_runs
    prefix = f"{group.name}: " if group.name else ""
    if prefix:
        text = f"{best_runs.role}{_size_text(best_runs)}"
        yield (
            f"{prefix}the best ({text}) reaches {_mean_text(best_runs, metric)} "
            f"{_seeds_text(best_runs)}."
        )
    for role, other in group.baselines.items():
        values_text = f"{_mean_text(other, metric)}{_other_size_text(other, best_runs)}"
        text = difference_text(best_runs, other, metric)
        yield (
            f"{prefix}{'against' if prefix else 'Against'} {ROLE_STYLES[role].description} "
            f"({values_text}): {text}."
        )
    if ties := [r.role for r in group.runners_up if verdict(best_runs, r, metric).is_tie]:
        word = "within" if prefix else "Within"
        yield f"{prefix}{word} seed noise of the best: {', '.join(ties)}."


def difference_text(first: SeedRuns, second: SeedRuns, metric: str) -> str:
    """The difference between ``first`` and ``second`` in words.

    A configuration that is made only once has no spread.
    """
    if "assembled" in (first.role, second.role):
        return formatting.format_difference(metric, first.mean(metric) - second.mean(metric))
    return verdict(first, second, metric).text


def trials_sentence(outcome: Outcome) -> str:
    """The number of trials in each final state."""
    counts = Counter[str](trial.state for trial in outcome.trials)
    states = ", ".join(f"{counts[s]} {words}" for s, words in _STATE_TEXTS.items() if counts[s])
    num_infeasible = sum(t.state == "finished" and not t.feasible for t in outcome.trials)
    infeasible_text = (
        f"; {num_infeasible} of the finished ones beyond a limit" if num_infeasible else ""
    )
    plural = "" if len(outcome.trials) == 1 else "s"
    detail = f": {states}{infeasible_text}" if states else ""
    return (
        f"{len(outcome.trials)} trial{plural} in "
        f"{formatting.format_duration(outcome.seconds)}{detail}."
    )


def screen_sentence(outcome: Outcome) -> str:
    """The trials that the proxy screen saved, and how well it ranks; empty without a screen."""
    quality = screen_quality(outcome.trials, outcome.goals[0].figure)
    if quality is None:
        return ""
    counts_text = ", ".join(
        f"{quality.verdict_counts[s]} {words}"
        for s, words in _VERDICT_TEXTS.items()
        if s in quality.verdict_counts
    )
    disabled_text = (
        f" It was switched off: {quality.disabled_reason}." if quality.disabled_reason else ""
    )
    weights_text = (
        ", each of which counts for as many as it stands for" if quality.num_checked else ""
    )
    return (
        f"Screen on distilled data: {counts_text}; with the real figures: "
        f"{quality.correlation_text}{weights_text}.{disabled_text}"
    )


def reuse_sentence(outcome: Outcome, participants: Participants) -> str:
    """The shared stages that were made, and those that were reused."""
    num_made, num_reused = len(outcome.made_keys), len(outcome.reused_keys)
    students = sum(trial.reused for trial in outcome.trials)
    text = f"Stages besides the trials: {num_made} made, {num_reused} reused from the library"
    text += f", as were the students of {students} trials" if students else ""
    saved = seconds_saved(outcome)
    text += f" (saved {formatting.format_duration(saved)})." if saved else "."
    uses = Counter(
        k for t in outcome.trials for k in t.stage_keys.values() if k in participants.shared
    )
    repeat_seconds = sum(
        (count - 1) * participants.shared[key].record.seconds for key, count in uses.items()
    )
    if repeat_seconds > 0:
        text += (
            f" The trials rest on {len(uses)} of them, {sum(uses.values())} times in all: made "
            "anew for each trial they would have taken "
            f"{formatting.format_duration(repeat_seconds)} more."
        )
    return text


def _mean_text(seed_runs: SeedRuns, metric: str) -> str:
    return mean_and_spread(metric, seed_runs)


def _seeds_text(seed_runs: SeedRuns) -> str:
    count = len(seed_runs.records)
    return f"over {count} seeds" if count > 1 else "(one seed only: no spread known)"


def _size_text(seed_runs: SeedRuns) -> str:
    size = seed_runs.records[0].figures.get("parameters")
    return f", {size:,.0f} parameters" if size else ""


def _other_size_text(seed_runs: SeedRuns, best_runs: SeedRuns) -> str:
    """The size where it is not the best student's own."""
    return _size_text(seed_runs) if _size_text(seed_runs) != _size_text(best_runs) else ""


def _test_sentences(outcome: Outcome, all_groups: Sequence[ComparisonGroup]) -> list[str]:
    """Accuracy on the test split, which no choice was made by."""
    sentences = []
    for group in all_groups:
        all_runs = (group.best_runs, *group.baselines.values())
        if accuracies := [
            f"{r.role} {_percent_text(outcome.test_accuracies[r.name])}"
            for r in all_runs
            if r.name in outcome.test_accuracies
        ]:
            group_text = f" ({group.name})" if group.name else ""
            sentences.append(
                f"On the test split, looked at once{group_text}: {', '.join(accuracies)}."
            )
    return sentences


def _percent_text(values: Sequence[float]) -> str:
    """Mean and standard deviation in per cent."""
    shares = [100 * value for value in values]
    spread = f" ± {statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.2f}{spread} %"
