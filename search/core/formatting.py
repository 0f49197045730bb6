"""How figures, sizes, times and searched values are worded for people."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

_NAMES = {
    "val_accuracy": "validation accuracy",
    "best_val_accuracy": "best validation accuracy",
    "val_nll": "validation negative log-likelihood",
    "val_ece": "validation calibration error",
    "val_agreement": "agreement with the teacher",
    "val_task_accuracy": "validation accuracy among the task's classes",
    "val_accuracy_before": "validation accuracy on the data before",
    "val_task_accuracy_before": "validation accuracy on the data before, among its classes",
    "val_subclass_recovery": "hidden classes found, one subclass each",
    "val_subclass_majority": "hidden classes found, by majority",
    "val_subclass_usage": "evenness of the subclasses' use",
    "flops": "FLOPs an image",
    "latency_ms": "latency",
    "latency_spread_ms": "spread of the latency",
    "planned_score": "predicted score",
    "planned_latency_ms": "predicted latency",
    "summed_latency_ms": "added-up latency",
}

PARTS: Mapping[str, str] = {
    "boundary": "boundaries",
    "neighbourhood": "neighbourhoods",
    "latency": "latencies",
}
"""Kinds of stage too many to be told one by one -> what several are called."""


def is_share(figure: str) -> bool:
    """Whether a figure is a share of examples, told in per cent."""
    ends = ("accuracy", "agreement", "recovery", "majority", "usage", "before", "forgetting")
    return figure.endswith(ends)


def unit(figure: str) -> str:
    """What stands behind a figure's number, with its leading space."""
    return " %" if is_share(figure) else " ms" if figure.endswith("_ms") else ""


def name(figure: str) -> str:
    """``val_accuracy`` as ``validation accuracy``."""
    return _NAMES.get(figure, figure.replace("_", " "))


def axis(figure: str) -> str:
    """A figure's name with its unit, for an axis or a column."""
    behind = unit(figure).strip()
    return f"{name(figure)}, {behind}" if behind else name(figure)


def number(figure: str, value: float) -> str:
    """A figure's value without its unit: ``91.39``, ``19,882``, ``0.3127``."""
    if not math.isfinite(value):
        return "-"
    if is_share(figure):
        return f"{100 * value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def value(figure: str, value: float) -> str:
    """A figure's value with its unit: ``91.39 %``."""
    return number(figure, value) + unit(figure)


def shown(figure: str, value: float) -> float:
    """A figure's value as pictures draw it: shares in per cent."""
    return 100 * value if is_share(figure) else value


def interval(figure: str, mean: float, low: float, high: float) -> str:
    """``-0.42 (-0.80 to -0.04)``, shares in points."""
    told = [shown(figure, x) for x in (mean, low, high)]
    return f"{told[0]:+.2f} ({told[1]:+.2f} to {told[2]:+.2f})"


def difference(figure: str, value: float) -> str:
    """``1.20 points higher``: a difference of two values of a figure."""
    if value == 0.0:
        return "no difference"
    if is_share(figure):
        size, behind = f"{abs(100 * value):.2f}", " points"
    else:
        size, behind = f"{abs(value):,.4g}", unit(figure)
    return f"{size}{behind} {'higher' if value > 0 else 'lower'}"


def compact(value: float) -> str:
    """A size in few letters: ``19.9 k``, ``1.2 M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """``1 h 04 min``, ``3 min 20 s``, ``12 s`` or ``0.4 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def short(text: str, most: int) -> str:
    """``text`` in at most so many letters, the middle left out where it is longer."""
    if len(text) <= most:
        return text
    behind = (most - 1) // 2
    return text[: most - 1 - behind] + "…" + text[len(text) - behind :]


def distinct(paths: Iterable[str]) -> dict[str, str]:
    """Each path's last steps, at least two and as many as set it apart from the others."""
    steps = {path: path.split(".") for path in paths}
    told = {}
    for path, own in steps.items():
        others = [other for name, other in steps.items() if name != path]
        count = 2
        while count < len(own) and any(other[-count:] == own[-count:] for other in others):
            count += 1
        told[path] = ".".join(own[-count:])
    return told


def fitted(names: Iterable[str], most: int) -> dict[str, str]:
    """Names in at most so many letters; longer ones lose what all of these begin with."""
    told = {name: name for name in names}
    long = [name for name in told if len(name) > most]
    if len(long) > 1:
        letters = zip(*long, strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda some: len(set(some)) == 1, letters))
        if 1 < shared < min(map(len, long)):
            told |= {name: "…" + name[shared:] for name in long}
    return {name: short(text, most) for name, text in told.items()}


def setting(value: Any, domain: Any = None, path: str = "") -> str:
    """A searched value: numbers in four digits, chains as ``cnn8 → cnn6``, mappings as YAML.

    ``domain``, as the experiment file has it, tells methods from a chain, and ``path`` teachers:
    they have no order and stand side by side, as ``cnn8 + cnn6``.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        methods = isinstance(domain, Mapping) and "methods" in domain
        joint = " + " if methods or path.endswith(".teachers") else " → "
        return joint.join(map(setting, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(_entry(key, inner) for key, inner in value.items())
    return str(value)


def _entry(key: str, inner: Any) -> str:
    if isinstance(inner, Mapping):
        return f"{key} ({setting(inner)})" if inner else str(key)
    return f"{key}: {setting(inner)}"


def domain(described: Any, path: str = "") -> str:
    """A searched path's domain, as the experiment file has it, in one line."""
    if not (isinstance(described, Mapping) and len(described) == 1):
        return str(described)
    kind, body = next(iter(described.items()))
    match kind, body:
        case (("uniform" | "log_uniform"), [low, high]):
            return f"{setting(low)} … {setting(high)}{', log' * (kind == 'log_uniform')}"
        case "integers", [low, high, *step]:
            return f"{low} … {high}" + (f" in steps of {step[0]}" if step and step[0] > 1 else "")
        case "choice", [*options]:
            return " | ".join(setting(option, described, path) for option in options)
        case "chain", {"of": of, **limits}:
            most, least = limits.get("at_most", len(of)), limits.get("at_least", 0)
            return f"{least} … {most} of {', '.join(map(setting, of))}"
        case "methods", {"of": of, **limits}:
            most, least = limits.get("at_most", len(of)), limits.get("at_least", 1)
            return f"{least} … {most} of {', '.join(map(_method, of))}, each with its own ranges"
    return f"{kind} {body}"


def _method(told: Any) -> str:
    """A method of a composition, with what is fixed of it."""
    if not isinstance(told, Mapping):
        return str(told)
    return ", ".join(f"{name} ({setting(fixed)})" for name, fixed in told.items())
