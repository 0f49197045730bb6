"""The values that an experiment's file holds where its search asks for one.

A value can be written in several forms: ``cosine`` and ``{cosine: {}}``, ``1`` and ``1.0``. So two
values of a path are compared by what the file means with each of them in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.composition import Composition
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import at, parts
from stillhouse.search.experiment.stage_graph import data_for, parse_entries
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.search.stages.core.config import Kind
from stillhouse.spaces.config.domains import Chain, Choice, Domain
from stillhouse.spaces.config.problems import ConfigError


@dataclass(frozen=True)
class Held:
    """The values of an experiment's file, by path."""

    experiment: Experiment

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Data and every entry as plain data, with all that the file leaves out."""
        entries = {name: entry.plain() for name, entry in self.experiment.entries.items()}
        return {**entries, "data": self.experiment.data.plain()}

    def value(self, path: str) -> Any:
        """What stands at ``path``; none if it leads nowhere.

        A link of a chain holds what the chain holds, except for what it does differently.
        """
        name, *rest = parts(path)
        entry = self.experiment.entries.get(name)
        if not (isinstance(entry, ChainEntry) and rest[:1] == ["links"] and len(rest) > 2):
            return at(self.plain, path)
        for spec in entry.networks:
            if spec.label == rest[1]:
                return at(entry.work(spec).plain(), ".".join(rest[2:]))
        return at(self.plain, ".".join((name, *rest[2:])))

    def same(self, path: str, value: Any, *other: Any) -> bool:
        """Whether ``value`` at ``path`` means what the file means, or what ``other`` means there.

        False for a value that is not allowed.
        """
        try:
            compared = self._meaning({path: other[0]}) if other else self._own
            return bool(self._meaning({path: value}) == compared)
        except ConfigError:
            return False

    def members(self, path: str) -> tuple[str, ...]:
        """Of a searched chain, cuts or methods at ``path``, those members that the file holds."""
        held, domain = at(self.plain, path) or (), self.experiment.search.get(path)
        if not isinstance(domain, Chain):
            return tuple(held)
        return tuple(member for member in domain.of if self._member(path, member) in held)

    def options(self, path: str) -> tuple[Any, ...]:
        """The values among which a choice at ``path`` is; none where they are not known."""
        found: Domain | None = self.experiment.search.get(path)
        for outer, domain in self.experiment.search.items():
            if isinstance(domain, Composition) and path.startswith(f"{outer}."):
                found = found or domain.declared(path.removeprefix(f"{outer}."))
            elif "*" in outer and _stands_for(outer, path):
                found = found or domain
        return found.values if isinstance(found, Choice) else ()

    @cached_property
    def _own(self) -> dict[str, Any]:
        return self._meaning({})

    def _meaning(self, values: Mapping[str, Any]) -> dict[str, Any]:
        stages, data = self.experiment.with_values(values)
        entries = parse_entries(stages)
        found = {name: _entry_meaning(entry, data) for name, entry in entries.items()}
        return {**found, "data": _data_meaning(data)}

    def _member(self, path: str, member: str) -> Any:
        """A member of a chain as plain data, as the field of the entry has it."""
        try:
            stages, _ = self.experiment.with_values({path: (member,)})
            entries = parse_entries(stages)
        except ConfigError:
            return member
        (found,) = at({name: entry.plain() for name, entry in entries.items()}, path)
        return found


def _entry_meaning(entry: Kind, data: DataConfig) -> dict[str, Any]:
    told = {**entry.plain(), "data": _data_meaning(data_for(entry, data))}
    if isinstance(entry, ChainEntry):
        told["links"] = [entry.work(spec).plain() for spec in entry.networks]
    return told


def _data_meaning(data: DataConfig) -> dict[str, Any]:
    name, source = data.origin()
    return {**data.plain(), "source": [name, source.settings()]}


def _stands_for(starred: str, path: str) -> bool:
    """Whether ``path`` is among those that a path with a ``*`` for one step stands for."""
    told, found = parts(starred), parts(path)
    return len(told) == len(found) and all(
        step in ("*", other) for step, other in zip(told, found, strict=True)
    )
