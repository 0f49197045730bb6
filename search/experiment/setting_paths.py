"""Dotted paths into an experiment's stages, and walking the searched ones in a fixed order."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stillhouse.spaces.config.domains import Chooser, Domain, LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError

Space = Mapping[str, Domain]
"""Searched path -> the values it may take; ``*`` stands for each network of a chain."""


def parts(path: str) -> tuple[str, ...]:
    """``student.training.lr`` as its steps."""
    return tuple(path.split("."))


# Fields that may be given by name alone, and what the name is called among the settings.
_NAMED = {"network": "family", "schedule": "kind", "scheduler": "kind", "weights": "path"}


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at ``path``; what was given by name opens up into its settings."""
    steps = parts(path)
    for step, following in itertools.pairwise(steps):
        data[step] = inner = _opened(step, data.get(step), following)
        data = inner
    data[steps[-1]] = list(value) if isinstance(value, tuple) else value


def _opened(field: str, inner: Any, following: str) -> dict[str, Any]:
    """``cosine`` and ``{cosine: {warmup: 5}}`` as ``{kind: cosine, warmup: 5}``."""
    name = _NAMED.get(field)
    if name and isinstance(inner, str):
        return {inner: {}} if following == inner else {name: inner}
    if name and isinstance(inner, Mapping) and len(inner) == 1:
        ((first, settings),) = inner.items()
        if isinstance(settings, Mapping) and following != first:
            return {name: first, **settings}
    return dict(inner) if isinstance(inner, Mapping) else {}


def has(data: Any, path: str) -> bool:
    """Whether ``path`` names a value (perhaps none) in plain data with all defaults stated."""
    for step in parts(path):
        if not (isinstance(data, Mapping) and step in data):
            return False
        data = data[step]
    return True


def ordered(space: Space) -> list[tuple[str, Domain]]:
    """Shorter paths first: a choice of a whole network comes before the settings inside it."""
    return sorted(space.items(), key=lambda item: len(parts(item[0])))


def at(data: Any, path: str) -> Any:
    """The value at ``path`` in plain data; none if it leads nowhere."""
    for step in parts(path):
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def starred(path: str) -> str:
    """``chain.links.cnn6.training.lr`` as ``chain.links.*.training.lr``."""
    steps = parts(path)
    return ".".join((*steps[:2], "*", *steps[3:])) if steps[1:2] == ("links",) else path


def told_apart(values: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Any]:
    """Drawn values with each method of a composition by itself, as ``with`` or ``without``.

    ``search`` holds the domains as an experiment file writes them.
    """
    told: dict[str, Any] = {}
    for path, value in values.items():
        found = search.get(path) or search.get(starred(path))
        of = at(found, "methods.of")
        names = [next(iter(n)) if isinstance(n, Mapping) else n for n in of or ()]
        if of is None:
            told[path] = value
        told |= {f"{path}.{name}": "with" if name in value else "without" for name in names}
    return told


def without_star(path: str) -> str:
    """``chain.links.*.training.lr`` as the chain's own ``chain.training.lr``."""
    return path.replace(".links.*", "")


def concrete(path: str, entries: Mapping[str, Any]) -> Iterator[str]:
    """The paths that ``path`` stands for, given the entries as they have been drawn so far."""
    if ".links.*." not in path:
        if has({name: entry.plain() for name, entry in entries.items()}, path):
            yield path
        return
    entry = entries[parts(path)[0]]
    behind = without_star(path).partition(".")[2]
    for network in entry.networks:
        if entry.ready(network):
            continue
        if has(entry.plain(), behind) or has(entry.work(network).plain(), behind):
            yield path.replace("*", network.label, 1)


class Recorded:
    """A chooser that answers with the first option and remembers what was asked: a grid's walk.

    Feed it the answers decided so far; ``asked`` then holds the number of options of every
    question on the way, so that :func:`leaves` can step through all of them.
    """

    def __init__(self, answers: tuple[int, ...], points: int) -> None:
        self._answers = answers
        self._points = points
        self.asked: list[int] = []
        self.chosen: dict[str, Any] = {}

    def uniform(self, name: str, low: float, high: float, log: bool) -> float:
        domain = LogUniform(low, high) if log else Uniform(low, high)
        options = domain.grid(self._points)
        self.chosen[name] = options[self._next(len(options))]
        return float(self.chosen[name])

    def integer(self, name: str, low: int, high: int, step: int) -> int:
        options = range(low, high + 1, step)
        self.chosen[name] = options[self._next(len(options))]
        return int(self.chosen[name])

    def choice(self, name: str, count: int, labels: Sequence[str]) -> int:
        index = self._next(count)
        self.chosen[name] = labels[index]
        return index

    def _next(self, count: int) -> int:
        place = len(self.asked)
        self.asked.append(count)
        return self._answers[place] if place < len(self._answers) else 0


def leaves(draw: Callable[[Chooser], Any], points: int) -> Iterator[dict[str, Any]]:
    """Every way to answer the questions that ``draw(chooser)`` asks, as name -> answer.

    Questions may depend on earlier answers, so this is a walk through a tree, not a product.
    Answers that do not go together end a way early; it is a way none the less.
    """
    answers: tuple[int, ...] = ()
    while True:
        recorded = Recorded(answers, points)
        with contextlib.suppress(ConfigError):
            draw(recorded)
        yield recorded.chosen
        taken = list(answers) + [0] * (len(recorded.asked) - len(answers))
        while taken and taken[-1] + 1 == recorded.asked[len(taken) - 1]:
            taken.pop()
        if not taken:
            return
        answers = (*taken[:-1], taken[-1] + 1)
