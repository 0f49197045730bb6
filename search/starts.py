"""Starting points: published settings that a search tries before its sampler proposes anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from methods.core.composition import Composition
from methods.core.objective import METHODS, parse_term
from search.experiment import Experiment
from search.space import at
from spaces.problem import ConfigError


def starts(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Name of a preset -> the answers it gives to what a sampler would be asked.

    Taken of a preset is what is searched. What it says nothing of has the value of the file, and
    is the sampler's where that is not among those searched. A preset with a value beyond the
    searched ones is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, answers in _all(experiment):
        if answers not in found.values():
            found[name] = answers
    return found


def _all(experiment: Experiment) -> Iterator[tuple[str, dict[str, Any]]]:
    plain = {name: entry.plain() for name, entry in experiment.entries.items()}
    for path, methods in _objectives(experiment, plain):
        for method in methods:
            for preset, published in METHODS.load(method).presets.items():
                together = [m for m in methods if m in (method, *published.beside)]
                wished = _wished(path, preset, together)
                walk = _Walk(experiment, plain, wished, {path: together})
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


class _Walk:
    """A chooser that answers with what is wished, or else with what the file holds.

    ``answers`` holds those of them that are among the values searched; ``fits`` is false once a
    wish is not.
    """

    def __init__(
        self,
        experiment: Experiment,
        plain: Mapping[str, Any],
        wished: Mapping[str, Any],
        composed: Mapping[str, Sequence[str]],
    ) -> None:
        self._written, self._plain = experiment.stages, plain
        self._wished, self._composed = wished, composed
        self.answers: dict[str, Any] = {}
        self.fits = True

    def uniform(self, name: str, low: float, high: float, log: bool) -> float:
        value = self._value(name)
        number = isinstance(value, int | float)
        return float(self._answer(name, value, number and low <= value <= high, low))

    def integer(self, name: str, low: int, high: int, step: int) -> int:
        value = self._value(name)
        return int(self._answer(name, value, value in range(low, high + 1, step), low))

    def choice(self, name: str, count: int, labels: Sequence[str]) -> int:
        members = list(labels) == ["without", "with"]
        value = self._whether(name) if members else str(self._value(name))
        answer = self._answer(name, value, value in labels, labels[0])
        return list(labels).index(answer)

    def _answer(self, name: str, value: Any, within: bool, other: Any) -> Any:
        if within:
            self.answers[name] = value
            return value
        self.fits &= name not in self._wished
        return other

    def _value(self, name: str) -> Any:
        return self._wished.get(name, at(self._plain, name))

    def _whether(self, name: str) -> str:
        """Of a composition: the preset's methods; of a chain: what the file holds."""
        outer, _, member = name.rpartition(".")
        chosen = self._composed.get(outer, at(self._written, outer) or ())
        return "with" if member in chosen else "without"
