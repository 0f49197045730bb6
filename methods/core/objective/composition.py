"""Composition: the methods of an objective, as a value that a search can suggest.

Each method has one yes/no parameter, so a sampler can learn that one method helps. A chosen method
adds the domains that its file declares. For some pairs of networks a well-known method is worse
than no teacher (Tian et al. 2020, tables 1 and 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stillhouse.methods.core.objective.objective import METHODS, parse_term
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.domains import Domain, OrderedSubset, Suggester
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

_FIELDS = ("of", "at_most", "at_least")


@dataclass(frozen=True)
class Composition:
    """Some of the methods ``members.of``; ``settings`` holds the fixed settings of each.

    A value is a tuple of names, in the order of ``of``. It replaces the methods of ``of`` in the
    objective of the file; other methods of the objective stay.
    """

    members: OrderedSubset
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(fingerprint(self.plain()))

    def suggest(self, name: str, suggester: Suggester) -> tuple[str, ...]:
        return self.members.suggest(name, suggester)

    def contains(self, value: Any) -> bool:
        return self.members.contains(value)

    def grid(self, num_points: int) -> tuple[tuple[str, ...], ...]:
        return self.members.grid(num_points)

    def conditional_domains(self, value: Any) -> dict[str, Domain]:
        """The declared domains of the chosen methods, without those of fixed settings."""
        domains: dict[str, Domain] = {}
        for name in value:
            fixed = parse_term(name, self.settings.get(name, {})).model_fields_set
            search_space = METHODS.load(name).Config.search_space()
            domains |= {f"{name}.{k}": d for k, d in search_space.items() if k not in fixed}
        return domains

    def domain_at(self, path: str) -> Domain | None:
        """The declared domain at ``path`` (``method.field``), also of an unchosen method."""
        name, _, field_name = path.partition(".")
        search_space = METHODS.load(name).Config.search_space() if name in self.members.of else {}
        return search_space.get(field_name)

    def with_value(self, current: Any, value: Any) -> dict[str, Any]:
        """The objective with the chosen methods, which keep their settings in ``current``."""
        current_terms = dict(current) if isinstance(current, Mapping) else {}
        other_terms = {k: v for k, v in current_terms.items() if k not in self.members.of}
        chosen = {
            name: {**(current_terms.get(name) or {}), **self.settings.get(name, {})}
            for name in value
        }
        return {**other_terms, **chosen}

    def initial_value(self, current: Any) -> dict[str, Any]:
        """The objective without a search; the first methods are added if it has too few."""
        current_terms = current if isinstance(current, Mapping) else {}
        present = [name for name in self.members.of if name in current_terms]
        absent = [name for name in self.members.of if name not in current_terms]
        num_missing = max(0, self.members.at_least - len(present))
        chosen = {*present, *absent[:num_missing]}
        return self.with_value(current, [name for name in self.members.of if name in chosen])

    def plain(self) -> dict[str, Any]:
        of = [{n: dict(self.settings[n])} if n in self.settings else n for n in self.members.of]
        limits = {"at_most": self.members.at_most, "at_least": self.members.at_least}
        return {"methods": {"of": of, **limits}}

    def __str__(self) -> str:
        least, most = self.members.at_least, self.members.at_most
        return f"{least} to {most} methods of {list(self.members.of)}, each with its own ranges"


def parse_composition(settings: Any) -> Composition:
    """From ``{of: [soft_targets, {attention: {at: last}}], at_most: 2, at_least: 1}``.

    Raises:
        ConfigError: unknown method, unknown settings, or limits that allow no method.
    """
    fields = dict(settings) if isinstance(settings, Mapping) else {"of": settings}
    if extra := sorted(set(fields) - set(_FIELDS)):
        raise ConfigError([Problem("methods", unknown_message("field", extra[0], _FIELDS))])
    of = fields.pop("of", None)
    if not isinstance(of, list | tuple):
        message = f"needs a list of methods, found {of!r}; there are {', '.join(METHODS.names())}"
        raise ConfigError([Problem("methods.of", message)])
    entries = [_parse_entry(item) for item in of]
    problems = [problem for name, fixed in entries for problem in _term_problems(name, fixed)]
    if problems:
        raise ConfigError(problems)
    names = tuple(name for name, _ in entries)
    try:
        members = OrderedSubset(names, **{"at_most": len(names), "at_least": 1, **fields})
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem("methods", str(error))]) from None
    return Composition(members, {name: fixed for name, fixed in entries if fixed})


DOMAIN_PARSERS: Mapping[str, Callable[[Any], Domain]] = {"methods": parse_composition}
"""Kinds of domain that this package adds to those of ``stillhouse.spaces.config.domains``."""


def _parse_entry(item: Any) -> tuple[Any, Mapping[str, Any]]:
    """A name, or ``{name: {fixed settings}}``."""
    if isinstance(item, Mapping) and len(item) == 1:
        ((name, fixed),) = item.items()
        return name, fixed
    return item, {}


def _term_problems(name: Any, fixed: Any) -> tuple[Problem, ...]:
    try:
        parse_term(name, fixed, "methods.of")
    except ConfigError as error:
        return error.problems
    return ()
