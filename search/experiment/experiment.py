"""Experiment: a recipe, which of its values may move, what to look for and how to run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.core.addresses import kept
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.schema import Factorial, GoalSettings, Run
from stillhouse.search.experiment.setting_paths import (
    Space,
    at,
    concrete,
    leaves,
    ordered,
    parts,
    put,
    starred,
    without_star,
)
from stillhouse.search.experiment.stage_graph import Recipe, lay_out, parse_entries, parse_entry
from stillhouse.search.experiment.yaml_schema import dump
from stillhouse.search.stages.core.config import Kind
from stillhouse.spaces.config.domains import Chooser, Domain, Opening, describe
from stillhouse.spaces.config.limits import Limit


@dataclass(frozen=True)
class Experiment:
    """An experiment as its file says it, checked. ``stages`` holds the entries as written."""

    name: str
    data: DataConfig
    stages: Mapping[str, Any]
    search: Space
    goal: GoalSettings | None
    run: Run
    library: str
    tracking: str | None
    study: str | None = None
    factorial: Factorial | None = None

    @property
    def final(self) -> str:
        """The entry that trials make: the goal's, or else the last one."""
        if self.goal:
            return parts((self.goal.maximize + self.goal.minimize)[0])[0]
        return list(self.stages)[-1]

    @property
    def trials(self) -> int:
        """How many configurations are tried; one where nothing is searched."""
        return self.run.trials if self.search else 1

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What to drive where; validation accuracy upwards if nothing is said."""
        if not self.goal:
            return (Goal("val_accuracy", True),)
        up = [Goal(_figure(path), True) for path in self.goal.maximize]
        return (*up, *(Goal(_figure(path), False) for path in self.goal.minimize))

    @property
    def limits(self) -> dict[str, Limit]:
        """Figure of the student -> the range it must keep."""
        kept = self.goal.subject_to if self.goal else {}
        return {_figure(path): limit for path, limit in kept.items()}

    @cached_property
    def entries(self) -> dict[str, Kind]:
        """The entries with the values they have in the file."""
        return parse_entries(self.stages)

    def recipe(self, values: Mapping[str, Any] | None = None, reseed: int = 0) -> Recipe:
        """The recipe with ``values`` in place.

        ``reseed`` is added to the seed of the student and of every entry that learns from
        another: a repetition trains assistants and student anew, and keeps the teacher and what
        was cut from it.

        Raises:
            ConfigError: a value does not fit.
        """
        stages, data = self.with_values(values or {})
        entries = parse_entries(stages)
        if reseed:
            entries = {name: self._reseeded(name, entry, reseed) for name, entry in entries.items()}
        timed = {name: entry.timed_by(self.run.latency) for name, entry in entries.items()}
        return lay_out(timed, data, self.final)

    def _reseeded(self, name: str, entry: Kind, reseed: int) -> Kind:
        again = entry.repeated or name == self.final
        return entry.model_copy(update={"seed": entry.seed + reseed}) if again else entry

    def draw(self, chooser: Chooser) -> dict[str, Any]:
        """Ask ``chooser`` for every searched value that applies, given those drawn before it.

        Raises:
            ConfigError: values that do not go together.
        """
        values: dict[str, Any] = {}
        entries = dict(self.entries)
        for path, domain in ordered(self.search):
            if parts(path)[0] == "data":
                values[path] = domain.draw(path, chooser)
                continue
            name = parts(path)[0]
            for place in concrete(path, entries):
                values[place] = domain.draw(place, chooser)
                for inner, opened in self._opened(place, domain, values[place]).items():
                    values[inner] = opened.draw(inner, chooser)
                stages, _ = self.with_values(values)
                entries[name] = parse_entry(stages[name], name)
        return values

    def _opened(self, place: str, domain: Domain, value: Any) -> dict[str, Domain]:
        """What a drawn value asks on, without what ``search:`` asks by itself."""
        if not isinstance(domain, Opening):
            return {}
        found = {f"{place}.{inner}": opened for inner, opened in domain.opened(value).items()}
        return {p: d for p, d in found.items() if not {p, starred(p)} & self.search.keys()}

    def configurations(self, points: int) -> Iterator[dict[str, Any]]:
        """All there are, with ranges at ``points`` places; what does not fit is left out."""
        drawn: list[dict[str, Any]] = []
        for _ in leaves(lambda chooser: drawn.append(self.draw(chooser)), points):
            yield from drawn
            drawn.clear()

    def plain(self) -> dict[str, Any]:
        """The experiment as its file would say it, without passwords in its addresses."""
        told: dict[str, Any] = {
            "name": self.name,
            "data": self.data.model_dump(mode="json", exclude_defaults=True),
            "stages": copy.deepcopy(dict(self.stages)),
        }
        if self.search:
            told["search"] = {path: describe(domain) for path, domain in self.search.items()}
        if self.factorial:
            told["factorial"] = self.factorial.model_dump(mode="json", exclude_defaults=True)
        if self.goal:
            told["goal"] = self.goal.model_dump(mode="json", exclude_defaults=True)
        told["run"] = self.run.model_dump(mode="json", exclude_defaults=True)
        if "scheduler" in told["run"]:  # its kind is the default of its class
            told["run"]["scheduler"] = {self.run.scheduler.kind: told["run"]["scheduler"]}
        told["library"] = self.library
        if self.tracking:
            told["tracking"] = kept(self.tracking)
        if self.study:
            told["study"] = kept(self.study)
        return told

    def settled(
        self, values: Mapping[str, Any], name: str, first_seed: int | None = None
    ) -> dict[str, Any]:
        """The file of one configuration: ``values`` in place, and nothing searched.

        ``first_seed`` is the first seed it was repeated over; launched, the file repeats those.
        """
        left_out = ("search", "factorial")
        told = {key: value for key, value in self.plain().items() if key not in left_out}
        stages, data = self.with_values(values)
        told["name"], told["stages"] = name, stages
        told["run"].pop("trials", None)
        told["run"].pop("screen", None)
        told["run"].get("repeats", {}).pop("of_each", None)
        if first_seed is not None:
            told["run"].setdefault("repeats", {})["first_seed"] = first_seed
        told["data"] = data.model_dump(mode="json", exclude_defaults=True)
        return told

    def with_values(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], DataConfig]:
        """The entries as written and the data, with ``values`` in place."""
        whole: dict[str, Any] = copy.deepcopy(dict(self.stages))
        whole["data"] = self.data.plain()
        for path, value in sorted(values.items(), key=lambda item: len(parts(item[0]))):
            opening = self._opening(path)
            put(whole, path, _laid(opening, whole, path, value) if opening else value)
        return whole, DataConfig.parse(whole.pop("data"), "data")

    def _opening(self, path: str) -> Opening | None:
        """The domain of ``path`` where its values are not what stands there, but decide it."""
        for told, domain in self.search.items():
            if told in (path, starred(path)) and isinstance(domain, Opening):
                return domain
        for told, domain in self.search.items():  # what all links may be given in common
            if without_star(told) == path and isinstance(domain, Opening):
                return domain
        return None


def _laid(opening: Opening, whole: Mapping[str, Any], path: str, value: Any) -> Any:
    """What stands at ``path`` with ``value``; a link names what it leaves out of its chain's."""
    laid = opening.laid(at(whole, path), value)
    name, *rest = parts(path)
    if rest[0] != "links":
        return laid
    common = at(whole, f"{name}.{rest[-1]}")
    left_out = common.keys() - opening.laid(common, value).keys()
    return {**laid, **dict.fromkeys(sorted(left_out))}


def _figure(path: str) -> str:
    """``val_accuracy`` of ``student.val_accuracy``."""
    return path.partition(".")[2]


def to_yaml(told: Mapping[str, Any]) -> str:
    """An experiment file's text."""
    return dump(told)
