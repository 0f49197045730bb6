"""What a search came to, in sentences."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping

from search.outcome import Outcome, Repeated
from search.report import wording
from search.report.cast import Cast
from search.report.summary import champion, ranking, seconds_saved, settled, verdict

_WHO: Mapping[str, str] = {
    "direct": "the direct student, taught by the teacher without assistants",
    "plain": "the plain student, taught by labels alone",
}
_STATES: Mapping[str, str] = {
    "finished": "finished",
    "pruned": "stopped early",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "not ended",
}


def headline(outcome: Outcome) -> str:
    """The best student in one sentence, with how sure that is."""
    best, ranked, figure = champion(outcome), ranking(outcome), outcome.goals[0].figure
    if best:
        return (
            f"The best student ({best.role}{_size(best)}) reaches {_reached(best, figure)} "
            f"{wording.name(figure)} {_seeds(best)}."
        )
    if not ranked:
        return "No trial has finished within the limits."
    value = wording.value(figure, ranked[0].figures.get(figure, math.nan))
    return (
        f"The best of {len(ranked)} finished trials, trial {ranked[0].number}, reached {value} "
        f"{wording.name(figure)}. One seed only: no spread known, and since it was chosen by "
        "this figure it is likely to be a lucky one."
    )


def comparisons(outcome: Outcome) -> list[str]:
    """The best student against each baseline, the runners-up and the test split."""
    best, figure = champion(outcome), outcome.goals[0].figure
    if best is None:
        return []
    told = [
        f"Against {_WHO[r.role]} ({_reached(r, figure)}{_other_size(r, best)}): "
        f"{verdict(best, r, figure).text}."
        for role in _WHO
        for r in settled(outcome)
        if r.role == role
    ]
    rivals = [r for r in settled(outcome) if r is not best and r.role not in _WHO]
    if level := [r.role for r in rivals if verdict(best, r, figure).tie]:
        told.append(f"Within seed noise of the best: {', '.join(level)}.")
    return told + _tested(outcome, best)


def trials(outcome: Outcome) -> str:
    """How many trials ended how."""
    counts = Counter[str](trial.state for trial in outcome.trials)
    told = ", ".join(f"{counts[s]} {words}" for s, words in _STATES.items() if counts[s])
    unfit = sum(t.state == "finished" and not t.feasible for t in outcome.trials)
    beyond = f"; {unfit} of the finished ones beyond a limit" if unfit else ""
    plural = "" if len(outcome.trials) == 1 else "s"
    behind = f": {told}{beyond}" if told else ""
    return f"{len(outcome.trials)} trial{plural} in {wording.duration(outcome.seconds)}{behind}."


def sharing(outcome: Outcome, cast: Cast) -> str:
    """What was made once and what was found ready."""
    made, reused = len(outcome.made), len(outcome.reused)
    students = sum(trial.reused for trial in outcome.trials)
    told = f"Stages besides the trials: {made} made, {reused} reused from the library"
    told += f", as were the students of {students} trials" if students else ""
    saved = seconds_saved(outcome)
    told += f" (saved {wording.duration(saved)})." if saved else "."
    uses = Counter(k for t in outcome.trials for k in t.keys.values() if k in cast.shared)
    again = sum((count - 1) * cast.shared[key].record.seconds for key, count in uses.items())
    if again > 0:
        told += (
            f" The trials rest on {len(uses)} of them, {sum(uses.values())} times in all: made "
            f"anew for each trial they would have taken {wording.duration(again)} more."
        )
    return told


def _reached(repeated: Repeated, figure: str) -> str:
    return wording.mean_and_spread(figure, repeated)


def _seeds(repeated: Repeated) -> str:
    count = len(repeated.records)
    return f"over {count} seeds" if count > 1 else "(one seed only: no spread known)"


def _size(repeated: Repeated) -> str:
    size = repeated.records[0].figures.get("parameters")
    return f", {size:,.0f} parameters" if size else ""


def _other_size(repeated: Repeated, best: Repeated) -> str:
    """The size where it is not the best student's own."""
    return _size(repeated) if _size(repeated) != _size(best) else ""


def _tested(outcome: Outcome, best: Repeated) -> list[str]:
    """Accuracy on the test split, which no choice was made by."""
    told = []
    for role in (best.role, *_WHO):
        if values := [100 * value for value in outcome.tests.get(role, ())]:
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            told.append(f"{role} {statistics.fmean(values):.2f}{spread} %")
    return [f"On the test split, looked at once: {', '.join(told)}."] if told else []
