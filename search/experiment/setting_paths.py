"""Dotted paths to settings of stages, and the enumeration of a search space."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stillhouse.spaces.config.domains import Domain, LogUniform, Suggester, Uniform
from stillhouse.spaces.config.problems import ConfigError

SearchSpace = Mapping[str, Domain]
"""Searched path -> the values it may take; ``*`` stands for each network of a chain."""


def split_path(path: str) -> tuple[str, ...]:
    """``student.training.lr`` as its steps."""
    return tuple(path.split("."))


# Fields that accept a bare name, and the setting that the name stands for.
_SHORTHAND_KEYS = {
    "network": "family",
    "sampler": "kind",
    "schedule": "kind",
    "scheduler": "kind",
    "weights": "path",
}


def set_value(data: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at ``path``; a bare name on the way is expanded to settings."""
    steps = split_path(path)
    for step, next_step in itertools.pairwise(steps):
        data[step] = child = _expand_shorthand(step, data.get(step), next_step)
        data = child
    data[steps[-1]] = list(value) if isinstance(value, tuple) else value


def _expand_shorthand(field: str, value: Any, next_step: str) -> dict[str, Any]:
    """``cosine`` and ``{cosine: {warmup: 5}}`` as ``{kind: cosine, warmup: 5}``."""
    shorthand_key = _SHORTHAND_KEYS.get(field)
    if shorthand_key and isinstance(value, str):
        return {value: {}} if next_step == value else {shorthand_key: value}
    if shorthand_key and isinstance(value, Mapping) and len(value) == 1:
        ((given_name, settings),) = value.items()
        if isinstance(settings, Mapping) and next_step != given_name:
            return {shorthand_key: given_name, **settings}
    return dict(value) if isinstance(value, Mapping) else {}


def has_path(data: Any, path: str) -> bool:
    """Whether ``path`` exists in plain data with all defaults; its value may be None."""
    for step in split_path(path):
        if not (isinstance(data, Mapping) and step in data):
            return False
        data = data[step]
    return True


def by_depth(space: SearchSpace) -> list[tuple[str, Domain]]:
    """Shorter paths first: a choice of a whole network comes before the settings inside it."""
    return sorted(space.items(), key=lambda item: len(split_path(item[0])))


def get_value(data: Any, path: str) -> Any:
    """The value at ``path`` in plain data; None if the path does not exist."""
    for step in split_path(path):
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def with_wildcard(path: str) -> str:
    """``chain.links.cnn6.training.lr`` as ``chain.links.*.training.lr``."""
    steps = split_path(path)
    return ".".join((*steps[:2], "*", *steps[3:])) if steps[1:2] == ("links",) else path


def split_compositions(values: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Any]:
    """Suggested values with one value per method of a composition: ``with`` or ``without``.

    ``search`` holds the domains as an experiment file writes them.
    """
    answers: dict[str, Any] = {}
    for path, value in values.items():
        domain = search.get(path) or search.get(with_wildcard(path))
        members = get_value(domain, "methods.of")
        member_names = [
            next(iter(member)) if isinstance(member, Mapping) else member
            for member in members or ()
        ]
        if members is None:
            answers[path] = value
        answers |= {
            f"{path}.{name}": "with" if name in value else "without" for name in member_names
        }
    return answers


def without_wildcard(path: str) -> str:
    """``chain.links.*.training.lr`` as ``chain.training.lr``."""
    return path.replace(".links.*", "")


def expand_wildcard(path: str, stage_configs: Mapping[str, Any]) -> Iterator[str]:
    """The paths that ``path`` stands for, with the entries as suggested so far."""
    if ".links.*." not in path:
        if has_path({name: chain.plain() for name, chain in stage_configs.items()}, path):
            yield path
        return
    chain = stage_configs[split_path(path)[0]]
    inner_path = without_wildcard(path).partition(".")[2]
    for network in chain.networks:
        if chain.has_weights(network):
            continue
        if has_path(chain.plain(), inner_path) or has_path(
            chain.link_operation(network).plain(), inner_path
        ):
            yield path.replace("*", network.label, 1)


class RecordingSuggester:
    """A suggester that answers with given option indices, then with first options.

    ``option_counts`` has the number of options of every parameter, so that
    :func:`enumerate_suggestions` can step through all of them.
    """

    def __init__(self, answers: tuple[int, ...], points: int) -> None:
        self._answers = answers
        self._points = points
        self.option_counts: list[int] = []
        self.suggestions: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
        domain = LogUniform(low, high) if log else Uniform(low, high)
        options = domain.grid(self._points)
        self.suggestions[name] = options[self._next_index(len(options))]
        return float(self.suggestions[name])

    def suggest_int(self, name: str, low: int, high: int, step: int) -> int:
        options = range(low, high + 1, step)
        self.suggestions[name] = options[self._next_index(len(options))]
        return int(self.suggestions[name])

    def suggest_index(self, name: str, count: int, labels: Sequence[str]) -> int:
        index = self._next_index(count)
        self.suggestions[name] = labels[index]
        return index

    def _next_index(self, count: int) -> int:
        depth = len(self.option_counts)
        self.option_counts.append(count)
        return self._answers[depth] if depth < len(self._answers) else 0


def enumerate_suggestions(
    suggest: Callable[[Suggester], Any], points: int
) -> Iterator[dict[str, Any]]:
    """Every assignment of the parameters that ``suggest(suggester)`` asks for, as name -> value.

    Parameters may depend on earlier values, so this walks a tree and not a product. Contradictory
    values end an assignment early; it is yielded all the same.
    """
    answers: tuple[int, ...] = ()
    while True:
        recorder = RecordingSuggester(answers, points)
        with contextlib.suppress(ConfigError):
            suggest(recorder)
        yield recorder.suggestions
        next_answers = list(answers) + [0] * (len(recorder.option_counts) - len(answers))
        while (
            next_answers and next_answers[-1] + 1 == recorder.option_counts[len(next_answers) - 1]
        ):
            next_answers.pop()
        if not next_answers:
            return
        answers = (*next_answers[:-1], next_answers[-1] + 1)
