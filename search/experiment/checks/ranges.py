"""Reads `search:`: each searched path and the values that it may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.methods.core.data.augmentation.augment import Augment
from stillhouse.methods.core.objective.composition import DOMAINS, Composition
from stillhouse.search.experiment.schema import ExperimentFile
from stillhouse.search.experiment.setting_paths import Space, parts
from stillhouse.search.stages.chain import Chain as ChainEntry
from stillhouse.search.stages.core.config import Kind
from stillhouse.spaces.config.domains import Domain, parse_domain
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown

UNDECLARED = "no range is declared beside this field; write one, like {uniform: [0, 1]}"


def read_space(
    told: ExperimentFile, entries: Mapping[str, Kind]
) -> tuple[Space, tuple[Problem, ...]]:
    """The searched paths with their domains, and what is wrong with the others.

    ``declared`` takes the domain that is written beside the field.
    """
    space: dict[str, Domain] = {}
    problems: list[Problem] = []
    # Last what is declared, perhaps by a method that another path may choose.
    for path, data in sorted(told.search.items(), key=lambda item: item[1] == "declared"):
        try:
            space[path] = _domain(path, data, entries, space)
        except ConfigError as error:
            problems.extend(error.under("search").problems)
    return {path: space[path] for path in told.search if path in space}, tuple(problems)


def _domain(path: str, data: Any, entries: Mapping[str, Kind], space: Space) -> Domain:
    name, *rest = parts(path)
    if name != "data" and name not in entries:
        raise ConfigError([Problem(path, unknown("stage", name, entries))])
    if not rest:
        message = f"names all of {name!r}; say which of its settings, like {name}.seed"
        raise ConfigError([Problem(path, message)])
    if data != "declared":
        domain = parse_domain(data, path, DOMAINS)
        if isinstance(domain, Composition):
            _check_objective(path, rest, entries.get(name))
        return domain
    declared = _declared_data if name == "data" else entries[name].declared
    found = declared(tuple(rest))
    for outer, domain in space.items():
        if isinstance(domain, Composition) and path.startswith(f"{outer}."):
            found = found or domain.declared(path.removeprefix(f"{outer}."))
    if found is None:
        raise ConfigError([Problem(path, UNDECLARED)])
    return found


def _check_objective(path: str, rest: Sequence[str], entry: Kind | None) -> None:
    """Methods make up an objective and nothing else.

    Raises:
        ConfigError: ``path`` leads to another field.
    """
    link = isinstance(entry, ChainEntry) and len(rest) == 3 and rest[0] == "links"
    whole = len(rest) == 1 and entry is not None and "objective" in type(entry).model_fields
    if rest[-1] != "objective" or not (link or whole):
        message = "methods: is for an objective, like student.objective"
        raise ConfigError([Problem(path, message)])


def _declared_data(path: tuple[str, ...]) -> Domain | None:
    match path:
        case ("augment", field):
            return Augment.space().get(field)
    return None
