"""Formats figures, sizes, times and searched values for people."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from stillhouse.search.core.metrics import find_metric

PART_NAMES: Mapping[str, str] = {
    "boundary": "boundaries",
    "neighbourhood": "neighbourhoods",
    "latency": "latencies",
}
"""Kind of stage of which a search may have hundreds -> its plural."""


def is_share(metric: str) -> bool:
    """Whether a metric is a share of examples, shown in per cent."""
    return find_metric(metric).is_share


def unit(metric: str) -> str:
    """The unit of a metric, with a leading space."""
    return f" {find_metric(metric).unit}".rstrip()


def metric_label(metric: str) -> str:
    """``val_accuracy`` as ``validation accuracy``."""
    return find_metric(metric).label


def axis_label(metric: str) -> str:
    """A metric's label with its unit, for an axis or a column."""
    unit_text = unit(metric).strip()
    return f"{metric_label(metric)}, {unit_text}" if unit_text else metric_label(metric)


def format_number(metric: str, value: float) -> str:
    """A metric's value without its unit: ``91.39``, ``19,882``, ``0.3127``."""
    if not math.isfinite(value):
        return "-"
    if is_share(metric):
        return f"{100 * value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def format_value(metric: str, value: float) -> str:
    """A metric's value with its unit: ``91.39 %``."""
    return format_number(metric, value) + unit(metric)


def plot_value(metric: str, value: float) -> float:
    """A metric's value for pictures: shares in per cent."""
    return 100 * value if is_share(metric) else value


def format_interval(metric: str, mean: float, low: float, high: float) -> str:
    """``-0.42 (-0.80 to -0.04)``, shares in points."""
    numbers = [plot_value(metric, x) for x in (mean, low, high)]
    return f"{numbers[0]:+.2f} ({numbers[1]:+.2f} to {numbers[2]:+.2f})"


def format_difference(metric: str, value: float) -> str:
    """``1.20 points higher``: the difference of two values of a metric."""
    if value == 0.0:
        return "no difference"
    if is_share(metric):
        size, unit_text = f"{abs(100 * value):.2f}", " points"
    else:
        size, unit_text = f"{abs(value):,.4g}", unit(metric)
    return f"{size}{unit_text} {'higher' if value > 0 else 'lower'}"


def format_compact(value: float) -> str:
    """A size with a suffix: ``19.9 k``, ``1.2 M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def format_duration(seconds: float) -> str:
    """``1 h 04 min``, ``3 min 20 s``, ``12 s`` or ``0.4 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds_left:02d} s" if minutes else f"{seconds_left} s"


def shorten(text: str, max_letters: int) -> str:
    """``text``, without its middle if it has more than ``max_letters``."""
    if len(text) <= max_letters:
        return text
    suffix_length = (max_letters - 1) // 2
    return text[: max_letters - 1 - suffix_length] + "…" + text[len(text) - suffix_length :]


def distinct_suffixes(paths: Iterable[str]) -> dict[str, str]:
    """Path -> its shortest suffix of two steps or more that no other path has."""
    steps = {path: path.split(".") for path in paths}
    suffixes = {}
    for path, steps_here in steps.items():
        others = [other for name, other in steps.items() if name != path]
        count = 2
        while count < len(steps_here) and any(
            other[-count:] == steps_here[-count:] for other in others
        ):
            count += 1
        suffixes[path] = ".".join(steps_here[-count:])
    return suffixes


def fit_names(names: Iterable[str], max_letters: int) -> dict[str, str]:
    """Name -> the name in at most ``max_letters``; long ones lose their common prefix."""
    fitted_names = {name: name for name in names}
    long = [name for name in fitted_names if len(name) > max_letters]
    if len(long) > 1:
        letters = zip(*long, strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, letters))
        if 1 < shared < min(map(len, long)):
            fitted_names |= {name: "…" + name[shared:] for name in long}
    return {name: shorten(text, max_letters) for name, text in fitted_names.items()}


def format_setting(value: Any, domain: Any = None, path: str = "") -> str:
    """A searched value: numbers in four digits, chains as ``cnn8 → cnn6``, mappings as YAML.

    Methods and teachers have no order: they are joined as ``cnn8 + cnn6``. ``domain``, as in the
    experiment file, marks methods; ``path`` marks teachers.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        is_composition = isinstance(domain, Mapping) and "methods" in domain
        joint = " + " if is_composition or path.endswith(".teachers") else " → "
        return joint.join(map(format_setting, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(_format_entry(key, inner) for key, inner in value.items())
    return str(value)


def _format_entry(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{key} ({format_setting(value)})" if value else str(key)
    return f"{key}: {format_setting(value)}"


def format_domain(described: Any, path: str = "") -> str:
    """The domain of a searched path, as in the experiment file, in one line."""
    if not (isinstance(described, Mapping) and len(described) == 1):
        return str(described)
    kind, body = next(iter(described.items()))
    match kind, body:
        case (("uniform" | "log_uniform"), [low, high]):
            return (
                f"{format_setting(low)} … {format_setting(high)}{', log' * (kind == 'log_uniform')}"
            )
        case "integers", [low, high, *step]:
            return f"{low} … {high}" + (f" in steps of {step[0]}" if step and step[0] > 1 else "")
        case "choice", [*options]:
            return " | ".join(format_setting(option, described, path) for option in options)
        case "chain", {"of": of, **limits}:
            maximum, minimum = limits.get("at_most", len(of)), limits.get("at_least", 0)
            return f"{minimum} … {maximum} of {', '.join(map(format_setting, of))}"
        case "methods", {"of": of, **limits}:
            maximum, minimum = limits.get("at_most", len(of)), limits.get("at_least", 1)
            methods = ", ".join(map(_format_method, of))
            return f"{minimum} … {maximum} of {methods}, each with its own ranges"
    return f"{kind} {body}"


def _format_method(method: Any) -> str:
    """A method of a composition, with its fixed settings."""
    if not isinstance(method, Mapping):
        return str(method)
    return ", ".join(f"{name} ({format_setting(fixed)})" for name, fixed in method.items())
