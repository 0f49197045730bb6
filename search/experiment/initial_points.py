"""Initial points: the first trials of a search, before its sampler proposes any.

They are published presets, or the values of the file and their neighbours. The values of a file may
have won on other data. A neighbour differs in one value.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse.methods.core.objective.composition import Composition
from stillhouse.methods.core.objective.objective import METHODS, parse_term
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.file_values import FileValues
from stillhouse.search.experiment.setting_paths import get_value
from stillhouse.spaces.config.domains import Choice, Domain, Integers, LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError


def initial_points(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Name of an initial point -> its values of the sampler's parameters.

    Only searched values are taken from a preset or from the file. A parameter that a preset does
    not set has the value of the file; the sampler decides it if that value is not searched. A
    preset with a value outside the search space is skipped.
    """
    propose = _file_points if experiment.run.start == "file" else _preset_points
    points: dict[str, dict[str, Any]] = {}
    for name, answers in propose(experiment):
        if answers not in points.values():
            points[name] = answers
    return points


def _file_points(experiment: Experiment) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values of the file, and ``run.neighbours`` neighbours."""
    file_values = FileValues(experiment)
    file_suggester = _FixedSuggester(file_values, {}, {})
    experiment.suggest(file_suggester)
    if not file_suggester.answers:
        return
    yield "the file's own values", file_suggester.answers
    known_answers, remaining = [file_suggester.answers], experiment.run.neighbours
    for name, value in _single_changes(file_suggester):
        if not remaining:
            return
        suggester = _FixedSuggester(file_values, {}, {}, {name: value})
        with contextlib.suppress(ConfigError):  # the values contradict each other
            experiment.suggest(suggester)
            if suggester.answers not in known_answers:
                known_answers.append(suggester.answers)
                remaining -= 1
                yield f"with {name} {value}", suggester.answers


def values_outside_space(experiment: Experiment) -> dict[str, Any]:
    """Searched path -> the value of the file, where it is outside the domain.

    Because of these the first trial of ``start: file`` differs from the file.
    """
    file_values = FileValues(experiment)
    try:
        values = experiment.suggest(_FixedSuggester(file_values, {}, {}))
    except ConfigError:  # a replacement contradicts the other values
        return {
            p: file_values.value(p)
            for p, d in experiment.search.items()
            if not _is_in_domain(file_values, p, d)
        }
    return {
        path: file_values.value(path)
        for path in values
        if not file_values.has_same_meaning(path, values[path])
    }


def _is_in_domain(file_values: FileValues, path: str, domain: Domain) -> bool:
    if isinstance(domain, Choice):
        return any(file_values.has_same_meaning(path, option) for option in domain.values)
    has_bounds = isinstance(domain, Uniform | LogUniform | Integers)
    return domain.contains(file_values.value(path) if has_bounds else file_values.members(path))


def _single_changes(file_suggester: _FixedSuggester) -> Iterator[tuple[str, Any]]:
    """Every parameter with each of its alternatives: first the nearest of each, then the next."""
    alternatives = {name: file_suggester.alternatives[name] for name in file_suggester.answers}
    for changes in itertools.zip_longest(
        *([(question, value) for value in values] for question, values in alternatives.items())
    ):
        yield from filter(None, changes)


def _preset_points(experiment: Experiment) -> Iterator[tuple[str, dict[str, Any]]]:
    file_values = FileValues(experiment)
    for path, methods in _searched_objectives(experiment, file_values.plain):
        for method in methods:
            for preset, preset_config in METHODS.load(method).presets.items():
                combined_methods = [
                    name for name in methods if name in (method, *preset_config.companions)
                ]
                preset_values = _preset_values(path, preset, combined_methods)
                suggester = _FixedSuggester(file_values, preset_values, {path: combined_methods})
                with contextlib.suppress(ConfigError):  # values that do not go together
                    experiment.suggest(suggester)
                    if suggester.is_in_space and preset_values.keys() & suggester.answers.keys():
                        yield (
                            f"{path}: {' + '.join(combined_methods)} of {preset}",
                            suggester.answers,
                        )


def _searched_objectives(
    experiment: Experiment, stages_data: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Path of every searched objective, with its present and possible methods."""
    for stage_name in stages_data:
        path = f"{stage_name}.objective"
        objective, domain = get_value(stages_data, path), experiment.search.get(path)
        members = domain.members.of if isinstance(domain, Composition) else ()
        if isinstance(objective, Mapping) and any(p.startswith(path) for p in experiment.search):
            yield path, tuple(dict.fromkeys([*objective, *members]))


def _preset_values(path: str, preset: str, methods: Sequence[str]) -> dict[str, Any]:
    """Path -> value of all fields that the preset sets for these methods."""
    values: dict[str, Any] = {}
    for method in methods:
        if preset in METHODS.load(method).presets:
            term = parse_term(method, {"preset": preset})
            fields = term.plain()
            values |= {f"{path}.{method}.{f}": fields[f] for f in term.model_fields_set}
    return values


NEIGHBOUR_STEPS = 8
"""Number of steps that divide a range; neighbours differ by one step."""


class _FixedSuggester:
    """A suggester that answers with ``overrides``, else preset values, else values of the file.

    ``answers`` contains the answers inside the search space, and ``alternatives`` the other values
    of each, nearest first. ``is_in_space`` is False after a preset value outside the space.
    """

    def __init__(
        self,
        file_values: FileValues,
        preset_values: Mapping[str, Any],
        compositions: Mapping[str, Sequence[str]],
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self._file_values, self._preset_values, self._compositions = (
            file_values,
            preset_values,
            compositions,
        )
        self._overrides = overrides or {}
        self.answers: dict[str, Any] = {}
        self.alternatives: dict[str, list[Any]] = {}
        self.is_in_space = True

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
        value = self._value(name)
        is_in_range = isinstance(value, int | float) and low <= value <= high
        if is_in_range:
            self.alternatives[name] = _neighbours_in_range(float(value), low, high, log)
        return float(self._answer(name, value, is_in_range, low))

    def suggest_int(self, name: str, low: int, high: int, step: int) -> int:
        value, values = self._value(name), range(low, high + 1, step)
        if value in values:
            neighbour_step = step * max(1, len(values) // NEIGHBOUR_STEPS)
            self.alternatives[name] = [
                v for v in (value + neighbour_step, value - neighbour_step) if v in values
            ]
        return int(self._answer(name, value, value in values, low))

    def suggest_index(self, name: str, count: int, labels: Sequence[str]) -> int:
        is_membership = list(labels) == ["without", "with"]
        value = self._membership_label(name) if is_membership else self._label(name, labels)
        self.alternatives[name] = [label for label in labels if label != value]
        answer = self._answer(name, value, value in labels, labels[0])
        return list(labels).index(answer)

    def _answer(self, name: str, value: Any, is_in_space: bool, fallback: Any) -> Any:
        if is_in_space:
            self.answers[name] = value
            return value
        self.is_in_space &= name not in self._preset_values
        return fallback

    def _value(self, name: str) -> Any:
        return self._overrides.get(
            name, self._preset_values.get(name, self._file_values.value(name))
        )

    def _label(self, name: str, labels: Sequence[str]) -> str:
        """The label of the option that equals the value; else the value as text."""
        value = str(self._value(name))
        if name in self._overrides or value in labels:
            return value
        preset_value = (self._preset_values[name],) if name in self._preset_values else ()
        for option in self._file_values.options(name):
            if self._file_values.has_same_meaning(name, option, *preset_value):
                return str(option)
        return value

    def _membership_label(self, name: str) -> str:
        """Whether a member is in: by the preset for a composition, by the file for a chain."""
        if name in self._overrides:
            return str(self._overrides[name])
        composition_path, _, member = name.rpartition(".")
        members = self._compositions.get(composition_path) or self._file_values.members(
            composition_path
        )
        return "with" if member in members else "without"


def _neighbours_in_range(value: float, low: float, high: float, log: bool) -> list[float]:
    """One step up and one step down, if inside the range."""
    if log:
        factor = (high / low) ** (1 / NEIGHBOUR_STEPS)
        candidates = [value * factor, value / factor]
    else:
        candidates = [
            value + (high - low) / NEIGHBOUR_STEPS,
            value - (high - low) / NEIGHBOUR_STEPS,
        ]
    return [v for v in candidates if low <= v <= high]
