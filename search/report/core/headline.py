"""What a search came to, in sentences."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from stillhouse.search.core import formatting
from stillhouse.search.report.core.participants import Cast
from stillhouse.search.report.core.roles import ROLES, Group, groups
from stillhouse.search.results.outcome import Outcome, Repeated
from stillhouse.search.results.screening import Said, judged
from stillhouse.search.results.statistics import (
    champion,
    mean_and_spread,
    ranking,
    seconds_saved,
    settled,
    verdict,
)
from stillhouse.spaces.config.limits import Limit

_STATES: Mapping[str, str] = {
    "finished": "finished",
    "pruned": "stopped early",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "not ended",
}


_SAID: Mapping[Said, str] = {
    "out": "screened out",
    "kept": "kept as the best of their round",
    "check": "trained to check the screen",
    "unscreened": "trained unscreened",
    "off": "trained after it was switched off",
}


def headline(outcome: Outcome) -> str:
    """The best student in one sentence, with how sure that is."""
    best, ranked, figure = champion(outcome), ranking(outcome), outcome.goals[0].figure
    if best:
        return (
            f"The best student ({best.role}{_size(best)}) reaches {_reached(best, figure)} "
            f"{formatting.name(figure)} {_seeds(best)}."
        )
    if not ranked:
        return "No trial has finished within the limits."
    value = formatting.value(figure, ranked[0].figures.get(figure, math.nan))
    return (
        f"The best of {len(ranked)} finished trials, trial {ranked[0].number}, reached {value} "
        f"{formatting.name(figure)}. One seed only: no spread known, and since it was chosen by "
        "this figure it is likely to be a lucky one."
    )


def breaches(outcome: Outcome, repeated: Repeated) -> list[str]:
    """A sentence for each limit that the mean of a configuration over its seeds breaks."""
    return [
        f"Its mean {formatting.name(figure)} over the seeds, {formatting.value(figure, mean)}, "
        f"breaks the limit: {_limit(figure, outcome.limits[figure])}."
        for figure, mean in repeated.breaches(outcome.limits).items()
    ]


_ALSO: Mapping[str, str] = {
    "direct": "The best has no assistants: it is the direct student.",
    "plain": "The best has no teacher: it is the plain student.",
}


def coinciding(best: Repeated) -> list[str]:
    """A sentence for each baseline that the best is itself."""
    return [_ALSO.get(role, f"The best is also {ROLES[role].whole}.") for role in best.also]


def limits(outcome: Outcome, best: Repeated) -> list[str]:
    """What the limits did to the choice of ``best``: those that it breaks, and who broke them.

    Named are configurations of its group that are better in the goal, but whose mean over the
    seeds breaks a limit.
    """
    goal = outcome.goals[0]
    sign = 1.0 if goal.maximize else -1.0
    ahead = [
        other
        for other in settled(outcome)
        if other.tried
        and other.group == best.group
        and sign * (other.mean(goal.figure) - best.mean(goal.figure)) > 0
    ]
    aside = [
        f"Set aside: {other.role}, with {_reached(other, goal.figure)}. {' '.join(broken)}"
        for other in ahead
        if (broken := breaches(outcome, other))
    ]
    return [*breaches(outcome, best), *aside]


def _limit(figure: str, limit: Limit) -> str:
    bounds = {"at least": limit.min, "at most": limit.max}
    told = [f"{word} {formatting.value(figure, x)}" for word, x in bounds.items() if x is not None]
    return " and ".join(told)


def comparisons(outcome: Outcome) -> list[str]:
    """The best student (of each group) against its baselines and runners-up, and the test split."""
    found, figure = groups(outcome), outcome.goals[0].figure
    told = [
        sentence
        for group in found
        for sentence in (
            *_compared(group, figure),
            *coinciding(group.best),
            *limits(outcome, group.best),
        )
    ]
    if any("scratch" in group.against and "uniform" not in group.against for group in found):
        told.append(
            "Without a student of uniform width: the teacher's family has no width to set, or "
            "none keeps the budget."
        )
    return told + _tested(outcome, found)


def _compared(group: Group, figure: str) -> Iterator[str]:
    """With a group's name in front of each sentence, where it has one."""
    best = group.best
    before = f"{group.name}: " if group.name else ""
    if before:
        told = f"{best.role}{_size(best)}"
        yield f"{before}the best ({told}) reaches {_reached(best, figure)} {_seeds(best)}."
    for role, other in group.against.items():
        about = f"{_reached(other, figure)}{_other_size(other, best)}"
        told = difference(best, other, figure)
        yield f"{before}{'against' if before else 'Against'} {ROLES[role].whole} ({about}): {told}."
    if level := [r.role for r in group.others if verdict(best, r, figure).tie]:
        word = "within" if before else "Within"
        yield f"{before}{word} seed noise of the best: {', '.join(level)}."


def difference(one: Repeated, other: Repeated, figure: str) -> str:
    """How ``one`` stands to ``other``, in words.

    What is made once has no spread, and no lack of seeds either.
    """
    if "assembled" in (one.role, other.role):
        return formatting.difference(figure, one.mean(figure) - other.mean(figure))
    return verdict(one, other, figure).text


def trials(outcome: Outcome) -> str:
    """How many trials ended how."""
    counts = Counter[str](trial.state for trial in outcome.trials)
    told = ", ".join(f"{counts[s]} {words}" for s, words in _STATES.items() if counts[s])
    unfit = sum(t.state == "finished" and not t.feasible for t in outcome.trials)
    beyond = f"; {unfit} of the finished ones beyond a limit" if unfit else ""
    plural = "" if len(outcome.trials) == 1 else "s"
    behind = f": {told}{beyond}" if told else ""
    return f"{len(outcome.trials)} trial{plural} in {formatting.duration(outcome.seconds)}{behind}."


def screening(outcome: Outcome) -> str:
    """What the screen on distilled data spared, and how well it ranks; empty without one."""
    found = judged(outcome.trials, outcome.goals[0].figure)
    if found is None:
        return ""
    told = ", ".join(
        f"{found.counts[s]} {words}" for s, words in _SAID.items() if s in found.counts
    )
    off = f" It was switched off: {found.off}." if found.off else ""
    stand = ", each of which counts for as many as it stands for" if found.checked else ""
    return f"Screen on distilled data: {told}; with the real figures: {found.told}{stand}.{off}"


def sharing(outcome: Outcome, cast: Cast) -> str:
    """What was made once and what was found ready."""
    made, reused = len(outcome.made), len(outcome.reused)
    students = sum(trial.reused for trial in outcome.trials)
    told = f"Stages besides the trials: {made} made, {reused} reused from the library"
    told += f", as were the students of {students} trials" if students else ""
    saved = seconds_saved(outcome)
    told += f" (saved {formatting.duration(saved)})." if saved else "."
    uses = Counter(k for t in outcome.trials for k in t.keys.values() if k in cast.shared)
    again = sum((count - 1) * cast.shared[key].record.seconds for key, count in uses.items())
    if again > 0:
        told += (
            f" The trials rest on {len(uses)} of them, {sum(uses.values())} times in all: made "
            f"anew for each trial they would have taken {formatting.duration(again)} more."
        )
    return told


def _reached(repeated: Repeated, figure: str) -> str:
    return mean_and_spread(figure, repeated)


def _seeds(repeated: Repeated) -> str:
    count = len(repeated.records)
    return f"over {count} seeds" if count > 1 else "(one seed only: no spread known)"


def _size(repeated: Repeated) -> str:
    size = repeated.records[0].figures.get("parameters")
    return f", {size:,.0f} parameters" if size else ""


def _other_size(repeated: Repeated, best: Repeated) -> str:
    """The size where it is not the best student's own."""
    return _size(repeated) if _size(repeated) != _size(best) else ""


def _tested(outcome: Outcome, found: Sequence[Group]) -> list[str]:
    """Accuracy on the test split, which no choice was made by."""
    told = []
    for group in found:
        every = (group.best, *group.against.values())
        if figures := [
            f"{r.role} {_shares(outcome.tests[r.name])}" for r in every if r.name in outcome.tests
        ]:
            where = f" ({group.name})" if group.name else ""
            told.append(f"On the test split, looked at once{where}: {', '.join(figures)}.")
    return told


def _shares(values: Sequence[float]) -> str:
    """Mean and standard deviation in per cent."""
    shares = [100 * value for value in values]
    spread = f" ± {statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.2f}{spread} %"
