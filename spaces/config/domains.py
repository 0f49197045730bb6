"""Domains: the values that a field of an experiment may take.

A domain is a frozen value that can be printed, compared and hashed. It does not know who draws
from it: ``draw`` asks a :class:`Suggester`, which the search implements with Optuna, a grid or a
random generator. A chain asks one yes/no question per member, so that a sampler which models
each question by itself (TPE) can learn that one particular assistant helps; so do cuts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

Scalar = bool | int | float | str

Member = TypeVar("Member", str, int)


class Suggester(Protocol):
    """Whoever decides: one answer per named question."""

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, step: int) -> int: ...

    def suggest_index(self, name: str, count: int, labels: Sequence[str]) -> int:
        """The index of one of ``count`` options; ``labels`` name them for people."""
        ...


class Domain(Protocol):
    """The values a field may take."""

    def suggest(self, name: str, suggester: Suggester) -> Any: ...

    def contains(self, value: Any) -> bool: ...

    def grid(self, num_points: int) -> tuple[Any, ...]:
        """All values, or ``num_points`` evenly spread ones where there are infinitely many."""
        ...


@runtime_checkable
class ConditionalDomain(Domain, Protocol):
    """A domain whose values have settings of their own: each opens further questions."""

    def conditional_domains(self, value: Any) -> Mapping[str, Domain]:
        """Path below the field -> the values that it may take once ``value`` is drawn."""
        ...

    def with_value(self, current: Any, value: Any) -> Any:
        """What the field holds with ``value`` in place, given what it holds in the file."""
        ...

    def initial_value(self, current: Any) -> Any:
        """What the field holds where nothing is drawn, given what it holds in the file."""
        ...

    def plain(self) -> dict[str, Any]:
        """As an experiment file writes it."""
        ...


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Uniform:
    """A real number, every value between ``low`` and ``high`` equally likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (
            _is_finite_number(self.low) and _is_finite_number(self.high) and self.low < self.high
        ):
            raise ValueError(f"needs two finite numbers low < high, found {self}")

    def suggest(self, name: str, suggester: Suggester) -> float:
        return suggester.suggest_float(name, self.low, self.high, log=False)

    def contains(self, value: Any) -> bool:
        return _is_finite_number(value) and self.low <= value <= self.high

    def grid(self, num_points: int) -> tuple[float, ...]:
        if num_points == 1:
            return ((self.low + self.high) / 2,)
        step = (self.high - self.low) / (num_points - 1)
        return (*(self.low + i * step for i in range(num_points - 1)), self.high)

    def __str__(self) -> str:
        return f"uniform [{self.low}, {self.high}]"


@dataclass(frozen=True)
class LogUniform:
    """A positive real number whose logarithm is uniform between those of ``low`` and ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (
            _is_finite_number(self.low)
            and _is_finite_number(self.high)
            and 0 < self.low < self.high
        ):
            raise ValueError(f"needs two finite numbers 0 < low < high, found {self}")

    def suggest(self, name: str, suggester: Suggester) -> float:
        return suggester.suggest_float(name, self.low, self.high, log=True)

    def contains(self, value: Any) -> bool:
        return _is_finite_number(value) and self.low <= value <= self.high

    def grid(self, num_points: int) -> tuple[float, ...]:
        exponents = Uniform(math.log(self.low), math.log(self.high)).grid(num_points)
        return tuple(min(max(math.exp(x), self.low), self.high) for x in exponents)

    def __str__(self) -> str:
        return f"log_uniform [{self.low}, {self.high}]"


@dataclass(frozen=True)
class Integers:
    """A whole number between ``low`` and ``high``, both included, in steps of ``step``."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        all_integers = all(type(x) is int for x in (self.low, self.high, self.step))
        if not (all_integers and self.low <= self.high and self.step >= 1):
            raise ValueError(f"needs whole numbers low <= high and a step of 1 or more: {self}")

    def suggest(self, name: str, suggester: Suggester) -> int:
        return suggester.suggest_int(name, self.low, self.high, self.step)

    def contains(self, value: Any) -> bool:
        return type(value) is int and value in range(self.low, self.high + 1, self.step)

    def grid(self, num_points: int) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def __str__(self) -> str:
        return f"integers [{self.low}, {self.high}] step {self.step}"


@dataclass(frozen=True)
class Choice:
    """One of a few values, without order. A value may be a whole sub-configuration."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("needs at least one value, found an empty list")
        if len({repr(v) for v in self.values}) != len(self.values):
            raise ValueError(f"names a value twice: {list(self.values)}")

    def __hash__(self) -> int:
        return hash(repr(self.values))

    def suggest(self, name: str, suggester: Suggester) -> Any:
        labels = [str(value) for value in self.values]
        return self.values[suggester.suggest_index(name, len(self.values), labels)]

    def contains(self, value: Any) -> bool:
        return any(value == v and type(value) is type(v) for v in self.values)

    def grid(self, num_points: int) -> tuple[Any, ...]:
        return self.values

    def __str__(self) -> str:
        return f"choice {list(self.values)}"


@dataclass(frozen=True)
class OrderedSubset:
    """An ordered selection from ``of``, which is given largest first (TAKD, section 3).

    Every subset whose length lies between ``at_least`` and ``at_most`` is a value; the order is
    always that of ``of``.
    """

    of: tuple[str, ...]
    at_most: int
    at_least: int = 0

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("needs at least one member, found an empty list")
        if not all(isinstance(member, str) for member in self.of):
            raise ValueError(f"needs names of networks, found {list(self.of)}")
        if len(set(self.of)) != len(self.of):
            raise ValueError(f"names a member twice: {list(self.of)}")
        _check_lengths(len(self.of), self.at_least, self.at_most)

    def suggest(self, name: str, suggester: Suggester) -> tuple[str, ...]:
        return _suggest_subset(self.of, self.at_least, self.at_most, name, suggester)

    def contains(self, value: Any) -> bool:
        return tuple(value) in self.grid(0) if isinstance(value, list | tuple) else False

    def grid(self, num_points: int) -> tuple[tuple[str, ...], ...]:
        return _subsets(self.of, self.at_least, self.at_most)

    def __str__(self) -> str:
        return f"chain of {list(self.of)}, {self.at_least} to {self.at_most} long"


@dataclass(frozen=True)
class CutPoints:
    """Points at which a network is cut: some of ``of``, which is given in increasing order.

    Every subset of ``at_least`` to ``at_most`` points is a value, in increasing order.
    """

    of: tuple[int, ...]
    at_most: int
    at_least: int = 0

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("needs at least one point, found an empty list")
        if not all(type(point) is int for point in self.of):
            raise ValueError(f"needs whole numbers, found {list(self.of)}")
        if any(after <= before for before, after in itertools.pairwise(self.of)):
            raise ValueError(f"needs points in increasing order, found {list(self.of)}")
        _check_lengths(len(self.of), self.at_least, self.at_most)

    def suggest(self, name: str, suggester: Suggester) -> tuple[int, ...]:
        return _suggest_subset(self.of, self.at_least, self.at_most, name, suggester)

    def contains(self, value: Any) -> bool:
        if not (isinstance(value, list | tuple) and all(type(point) is int for point in value)):
            return False
        length_allowed = self.at_least <= len(value) <= self.at_most
        return length_allowed and tuple(value) == tuple(p for p in self.of if p in value)

    def grid(self, num_points: int) -> tuple[tuple[int, ...], ...]:
        return _subsets(self.of, self.at_least, self.at_most)

    def __str__(self) -> str:
        return f"cuts at {list(self.of)}, {self.at_least} to {self.at_most} of them"


def _check_lengths(members: int, at_least: int, at_most: int) -> None:
    if not 0 <= at_least <= at_most <= members:
        raise ValueError(
            f"needs 0 <= at_least <= at_most <= {members}, "
            f"found at_least {at_least} and at_most {at_most}"
        )


def _suggest_subset(
    of: tuple[Member, ...], at_least: int, at_most: int, name: str, suggester: Suggester
) -> tuple[Member, ...]:
    """One question a member, as long as its answer is open."""
    chosen: list[Member] = []
    for position, member in enumerate(of):
        remaining = len(of) - position
        if len(chosen) == at_most:
            break
        is_required = at_least - len(chosen) == remaining
        if is_required or suggester.suggest_index(f"{name}.{member}", 2, ["without", "with"]):
            chosen.append(member)
    return tuple(chosen)


def _subsets(of: tuple[Member, ...], at_least: int, at_most: int) -> tuple[tuple[Member, ...], ...]:
    lengths = range(at_least, at_most + 1)
    return tuple(subset for n in lengths for subset in itertools.combinations(of, n))


DOMAIN_KINDS = ("uniform", "log_uniform", "integers", "choice", "chain", "cuts")


def parse_domain(
    data: Any, path: str = "", extra_kinds: Mapping[str, Callable[[Any], Domain]] | None = None
) -> Domain:
    """Read a domain as experiment files write it: ``{log_uniform: [1, 20]}`` and so on.

    Args:
        more: further kinds, which other packages know: name -> what reads their settings.

    Raises:
        ConfigError: not a known kind, or limits between which no value lies.
    """
    extra_kinds = extra_kinds or {}
    kinds = (*DOMAIN_KINDS, *extra_kinds)
    if not (isinstance(data, Mapping) and len(data) == 1):
        raise ConfigError(
            [Problem(path, f"a domain is one of {_format_kinds(kinds)}; found {data!r}")]
        )
    kind, settings = next(iter(data.items()))
    if kind not in kinds:
        raise ConfigError([Problem(path, unknown_message("kind of domain", kind, kinds))])
    try:
        return extra_kinds[kind](settings) if kind in extra_kinds else _parse_kind(kind, settings)
    except ConfigError as error:
        raise error.with_prefix(path) from None
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem(path, f"{kind}: {error}")]) from None


def _parse_kind(kind: str, settings: Any) -> Domain:
    if kind in ("chain", "cuts"):
        fields = dict(settings) if isinstance(settings, Mapping) else {"of": settings}
        if unknown_fields := set(fields) - {"of", "at_most", "at_least"}:
            raise ValueError(
                unknown_message("field", min(unknown_fields), ("of", "at_most", "at_least"))
            )
        of = tuple(_as_list(fields.pop("of", None)))
        subset_type = OrderedSubset if kind == "chain" else CutPoints
        return subset_type(of, **{"at_most": len(of), **fields})
    values = _as_list(settings)
    if kind == "choice":
        return Choice(tuple(values))
    if kind == "integers":
        if len(values) not in (2, 3):
            raise ValueError(f"needs [low, high] or [low, high, step], found {values}")
        return Integers(*values)
    if len(values) != 2:
        raise ValueError(f"needs [low, high], found {values}")
    return Uniform(*values) if kind == "uniform" else LogUniform(*values)


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"needs a list, found {value!r}")
    return list(value)


def _format_kinds(kinds: Sequence[str]) -> str:
    return ", ".join("{" + kind + ": ...}" for kind in kinds)


def domain_to_dict(domain: Domain) -> dict[str, Any]:
    """The domain as an experiment file would write it; ``parse_domain`` reads it back."""
    match domain:
        case Uniform(low, high):
            return {"uniform": [low, high]}
        case LogUniform(low, high):
            return {"log_uniform": [low, high]}
        case Integers(low, high, step):
            return {"integers": [low, high, step]}
        case Choice(values):
            return {"choice": list(values)}
        case OrderedSubset(of, at_most, at_least):
            return {"chain": {"of": list(of), "at_most": at_most, "at_least": at_least}}
        case CutPoints(of, at_most, at_least):
            return {"cuts": {"of": list(of), "at_most": at_most, "at_least": at_least}}
        case ConditionalDomain():
            return domain.plain()
    raise TypeError(f"not a domain: {domain!r}")
