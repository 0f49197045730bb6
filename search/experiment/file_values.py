"""The values of an experiment file at its searched paths.

A value has several notations: ``cosine`` and ``{cosine: {}}``, ``1`` and ``1.0``. Two values of a
path are therefore equal if the parsed file is the same with either of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.composition import Composition
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import get_value, split_path
from stillhouse.search.experiment.stage_graph import data_config_for, parse_stages
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.search.stages.core.config import StageConfig
from stillhouse.spaces.config.domains import Choice, Domain, OrderedSubset
from stillhouse.spaces.config.problems import ConfigError


@dataclass(frozen=True)
class FileValues:
    """Values of an experiment file, by path."""

    experiment: Experiment

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Data and every entry as plain data, with all defaults."""
        entries = {name: entry.plain() for name, entry in self.experiment.stage_configs.items()}
        return {**entries, "data": self.experiment.data.plain()}

    def value(self, path: str) -> Any:
        """The value at ``path``; None if the path does not exist.

        A link of a chain has the settings of the chain, except for its own changes.
        """
        name, *steps = split_path(path)
        entry = self.experiment.stage_configs.get(name)
        if not (isinstance(entry, ChainEntry) and steps[:1] == ["links"] and len(steps) > 2):
            return get_value(self.plain, path)
        for spec in entry.networks:
            if spec.label == steps[1]:
                return get_value(entry.link_operation(spec).plain(), ".".join(steps[2:]))
        return get_value(self.plain, ".".join((name, *steps[2:])))

    def has_same_meaning(self, path: str, value: Any, *other: Any) -> bool:
        """Whether ``value`` at ``path`` equals the value of the file, or ``other``.

        False for a value that is not allowed.
        """
        try:
            other_meaning = self._meaning({path: other[0]}) if other else self._file_meaning
            return bool(self._meaning({path: value}) == other_meaning)
        except ConfigError:
            return False

    def members(self, path: str) -> tuple[str, ...]:
        """The members of a searched chain, cuts or methods at ``path`` that the file contains."""
        members_in_file, domain = (
            get_value(self.plain, path) or (),
            self.experiment.search.get(path),
        )
        if not isinstance(domain, OrderedSubset):
            return tuple(members_in_file)
        return tuple(
            member for member in domain.of if self._plain_member(path, member) in members_in_file
        )

    def options(self, path: str) -> tuple[Any, ...]:
        """The options of a choice at ``path``; empty if ``path`` is no choice."""
        matched: Domain | None = self.experiment.search.get(path)
        for outer, domain in self.experiment.search.items():
            if isinstance(domain, Composition) and path.startswith(f"{outer}."):
                matched = matched or domain.domain_at(path.removeprefix(f"{outer}."))
            elif "*" in outer and _matches_pattern(outer, path):
                matched = matched or domain
        return matched.values if isinstance(matched, Choice) else ()

    @cached_property
    def _file_meaning(self) -> dict[str, Any]:
        return self._meaning({})

    def _meaning(self, values: Mapping[str, Any]) -> dict[str, Any]:
        stages, data = self.experiment.with_values(values)
        entries = parse_stages(stages)
        meanings = {name: _entry_meaning(entry, data) for name, entry in entries.items()}
        return {**meanings, "data": _data_meaning(data)}

    def _plain_member(self, path: str, member: str) -> Any:
        """A member of a chain in the notation of the parsed entry."""
        try:
            stages, _ = self.experiment.with_values({path: (member,)})
            entries = parse_stages(stages)
        except ConfigError:
            return member
        (plain_member,) = get_value({name: entry.plain() for name, entry in entries.items()}, path)
        return plain_member


def _entry_meaning(entry: StageConfig, data: DataConfig) -> dict[str, Any]:
    meaning = {**entry.plain(), "data": _data_meaning(data_config_for(entry, data))}
    if isinstance(entry, ChainEntry):
        meaning["links"] = [entry.link_operation(spec).plain() for spec in entry.networks]
    return meaning


def _data_meaning(data: DataConfig) -> dict[str, Any]:
    name, source = data.named_source()
    return {**data.plain(), "source": [name, source.settings()]}


def _matches_pattern(pattern: str, path: str) -> bool:
    """Whether ``path`` matches a path with a wildcard."""
    pattern_steps, steps = split_path(pattern), split_path(path)
    return len(pattern_steps) == len(steps) and all(
        pattern_step in ("*", step) for pattern_step, step in zip(pattern_steps, steps, strict=True)
    )
