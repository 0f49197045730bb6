"""Starting points: what a search tries before its sampler proposes anything.

Published settings, or what the file itself holds, which may have won on other data, and its
neighbours: in each of them one value is another one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.methods.core.objective.objective import METHODS, parse_term
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.file_values import Held
from stillhouse.search.experiment.setting_paths import at
from stillhouse.spaces.config.domains import Choice, Domain, Integers, LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError


def starts(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Name of a starting point -> the answers it gives to what a sampler would be asked.

    Taken of a preset, or of the file, is what is searched. What a preset says nothing of has the
    value of the file, and is the sampler's where that is not among those searched. A preset with
    a value beyond the searched ones is left out.
    """
    proposed = _here if experiment.run.start == "file" else _presets
    found: dict[str, dict[str, Any]] = {}
    for name, answers in proposed(experiment):
        if answers not in found.values():
            found[name] = answers
    return found


def _here(experiment: Experiment) -> Iterator[tuple[str, dict[str, Any]]]:
    """The file's own values, and as many of their neighbours as are asked for."""
    held = Held(experiment)
    own = _Walk(held, {}, {})
    experiment.draw(own)
    if not own.answers:
        return
    yield "the file's own values", own.answers
    seen, left = [own.answers], experiment.run.neighbours
    for name, value in _turns(own):
        if not left:
            return
        walk = _Walk(held, {}, {}, {name: value})
        with contextlib.suppress(ConfigError):  # values that do not go together
            experiment.draw(walk)
            if walk.answers not in seen:
                seen.append(walk.answers)
                left -= 1
                yield f"with {name} {value}", walk.answers


def outside(experiment: Experiment) -> dict[str, Any]:
    """Searched path -> the value that the file holds there, where it is none of those searched.

    With these the first trial of ``start: file`` is another configuration than the file's.
    """
    held = Held(experiment)
    try:
        values = experiment.draw(_Walk(held, {}, {}))
    except ConfigError:  # what takes the place of a value outside does not go with the rest
        return {p: held.value(p) for p, d in experiment.search.items() if not _within(held, p, d)}
    return {path: held.value(path) for path in values if not held.same(path, values[path])}


def _within(held: Held, path: str, domain: Domain) -> bool:
    if isinstance(domain, Choice):
        return any(held.same(path, option) for option in domain.values)
    ranged = isinstance(domain, Uniform | LogUniform | Integers)
    return domain.contains(held.value(path) if ranged else held.members(path))


def _turns(own: _Walk) -> Iterator[tuple[str, Any]]:
    """Every question that was answered with one of the answers beside it: first the nearest of
    each question, then the next."""
    beside = {name: own.beside[name] for name in own.answers}
    for near in itertools.zip_longest(*([(n, v) for v in some] for n, some in beside.items())):
        yield from filter(None, near)


def _presets(experiment: Experiment) -> Iterator[tuple[str, dict[str, Any]]]:
    held = Held(experiment)
    for path, methods in _objectives(experiment, held.plain):
        for method in methods:
            for preset, published in METHODS.load(method).presets.items():
                together = [m for m in methods if m in (method, *published.beside)]
                wished = _wished(path, preset, together)
                walk = _Walk(held, wished, {path: together})
                with contextlib.suppress(ConfigError):  # values that do not go together
                    experiment.draw(walk)
                    if walk.fits and wished.keys() & walk.answers.keys():
                        yield f"{path}: {' + '.join(together)} of {preset}", walk.answers


def _objectives(
    experiment: Experiment, plain: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every searched objective's path, with the methods that it holds or may be given."""
    for entry in plain:
        path = f"{entry}.objective"
        held, domain = at(plain, path), experiment.search.get(path)
        members = domain.members.of if isinstance(domain, Composition) else ()
        if isinstance(held, Mapping) and any(p.startswith(path) for p in experiment.search):
            yield path, tuple(dict.fromkeys([*held, *members]))


def _wished(path: str, preset: str, together: Sequence[str]) -> dict[str, Any]:
    """Path -> value of all fields that the preset of these methods names."""
    found: dict[str, Any] = {}
    for method in together:
        if preset in METHODS.load(method).presets:
            told = parse_term(method, {"preset": preset})
            fields = told.plain()
            found |= {f"{path}.{method}.{f}": fields[f] for f in told.model_fields_set}
    return found


NEAR = 8
"""Into how many steps a range is divided: the next one is a neighbour."""


class _Walk:
    """A chooser that answers with what is wished, or else with what the file holds.

    ``answers`` holds those of them that are among the values searched, ``beside`` what else each
    could have been, the nearest first; ``fits`` is false once a wish is not among those searched.
    ``turned`` are answers given whatever is wished.
    """

    def __init__(
        self,
        held: Held,
        wished: Mapping[str, Any],
        composed: Mapping[str, Sequence[str]],
        turned: Mapping[str, Any] | None = None,
    ) -> None:
        self._held, self._wished, self._composed = held, wished, composed
        self._turned = turned or {}
        self.answers: dict[str, Any] = {}
        self.beside: dict[str, list[Any]] = {}
        self.fits = True

    def uniform(self, name: str, low: float, high: float, log: bool) -> float:
        value = self._value(name)
        within = isinstance(value, int | float) and low <= value <= high
        if within:
            self.beside[name] = _stepped(float(value), low, high, log)
        return float(self._answer(name, value, within, low))

    def integer(self, name: str, low: int, high: int, step: int) -> int:
        value, values = self._value(name), range(low, high + 1, step)
        if value in values:
            by = step * max(1, len(values) // NEAR)
            self.beside[name] = [v for v in (value + by, value - by) if v in values]
        return int(self._answer(name, value, value in values, low))

    def choice(self, name: str, count: int, labels: Sequence[str]) -> int:
        members = list(labels) == ["without", "with"]
        value = self._whether(name) if members else self._label(name, labels)
        self.beside[name] = [label for label in labels if label != value]
        answer = self._answer(name, value, value in labels, labels[0])
        return list(labels).index(answer)

    def _answer(self, name: str, value: Any, within: bool, other: Any) -> Any:
        if within:
            self.answers[name] = value
            return value
        self.fits &= name not in self._wished
        return other

    def _value(self, name: str) -> Any:
        return self._turned.get(name, self._wished.get(name, self._held.value(name)))

    def _label(self, name: str, labels: Sequence[str]) -> str:
        """The label of the option that means the same as the value; else the value as text."""
        value = str(self._value(name))
        if name in self._turned or value in labels:
            return value
        wished = (self._wished[name],) if name in self._wished else ()
        for option in self._held.options(name):
            if self._held.same(name, option, *wished):
                return str(option)
        return value

    def _whether(self, name: str) -> str:
        """Of a composition: the preset's methods; of a chain: what the file holds."""
        if name in self._turned:
            return str(self._turned[name])
        outer, _, member = name.rpartition(".")
        chosen = self._composed.get(outer) or self._held.members(outer)
        return "with" if member in chosen else "without"


def _stepped(value: float, low: float, high: float, log: bool) -> list[float]:
    """One step up and one down, where the range has room for them."""
    if log:
        factor = (high / low) ** (1 / NEAR)
        found = [value * factor, value / factor]
    else:
        found = [value + (high - low) / NEAR, value - (high - low) / NEAR]
    return [v for v in found if low <= v <= high]
