"""Domains: the values that a field of an experiment may take.

A domain is a frozen value that can be printed, compared and hashed. It knows no sampler:
``suggest`` asks a :class:`Suggester`, which the search implements with Optuna, a grid or a random
generator. A chain and a set of cuts ask one yes/no question for each member. A sampler that models
each question by itself (TPE) can then learn that one particular assistant helps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

Scalar = bool | int | float | str

Member = TypeVar("Member", str, int)


class Suggester(Protocol):
    """Decides values: one answer for each named question."""

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

    def plain(self) -> dict[str, Any]:
        """The form of an experiment file; :func:`parse_domain` reads it back."""
        ...


@runtime_checkable
class ConditionalDomain(Domain, Protocol):
    """A domain whose values have settings with domains of their own."""

    def conditional_domains(self, value: Any) -> Mapping[str, Domain]:
        """Path below the field -> its domain, for the settings that ``value`` adds."""
        ...

    def with_value(self, current: Any, value: Any) -> Any:
        """The field's content with ``value`` applied; ``current`` is its content in the file."""
        ...

    def initial_value(self, current: Any) -> Any:
        """The field's content before any suggestion; ``current`` is its content in the file."""
        ...


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class _RealRange:
    """A real number between ``low`` and ``high``, both included."""

    kind: ClassVar[str]

    low: float
    high: float

    @classmethod
    def parse(cls, settings: Any) -> Self:
        values = _as_list(settings)
        if len(values) != 2:
            raise ValueError(f"needs [low, high], found {values}")
        return cls(*values)

    def _has_finite_ends(self) -> bool:
        return _is_finite_number(self.low) and _is_finite_number(self.high)

    def contains(self, value: Any) -> bool:
        return _is_finite_number(value) and self.low <= value <= self.high

    def plain(self) -> dict[str, Any]:
        return {self.kind: [self.low, self.high]}

    def __str__(self) -> str:
        return f"{self.kind} [{self.low}, {self.high}]"


@dataclass(frozen=True)
class Uniform(_RealRange):
    """A real number, every value between ``low`` and ``high`` equally likely."""

    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        if not (self._has_finite_ends() and self.low < self.high):
            raise ValueError(f"needs two finite numbers low < high, found {self}")

    def suggest(self, name: str, suggester: Suggester) -> float:
        return suggester.suggest_float(name, self.low, self.high, log=False)

    def grid(self, num_points: int) -> tuple[float, ...]:
        if num_points == 1:
            return ((self.low + self.high) / 2,)
        step = (self.high - self.low) / (num_points - 1)
        return (*(self.low + i * step for i in range(num_points - 1)), self.high)


@dataclass(frozen=True)
class LogUniform(_RealRange):
    """A positive real number whose logarithm is uniform between those of ``low`` and ``high``."""

    kind: ClassVar[str] = "log_uniform"

    def __post_init__(self) -> None:
        if not (self._has_finite_ends() and 0 < self.low < self.high):
            raise ValueError(f"needs two finite numbers 0 < low < high, found {self}")

    def suggest(self, name: str, suggester: Suggester) -> float:
        return suggester.suggest_float(name, self.low, self.high, log=True)

    def grid(self, num_points: int) -> tuple[float, ...]:
        exponents = Uniform(math.log(self.low), math.log(self.high)).grid(num_points)
        return tuple(min(max(math.exp(x), self.low), self.high) for x in exponents)


@dataclass(frozen=True)
class Integers:
    """A whole number between ``low`` and ``high``, both included, in steps of ``step``."""

    kind: ClassVar[str] = "integers"

    low: int
    high: int
    step: int = 1

    @classmethod
    def parse(cls, settings: Any) -> Self:
        values = _as_list(settings)
        if len(values) not in (2, 3):
            raise ValueError(f"needs [low, high] or [low, high, step], found {values}")
        return cls(*values)

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

    def plain(self) -> dict[str, Any]:
        return {self.kind: [self.low, self.high, self.step]}

    def __str__(self) -> str:
        return f"integers [{self.low}, {self.high}] step {self.step}"


@dataclass(frozen=True)
class Choice:
    """One of a few values without order. A value may be a whole sub-configuration."""

    kind: ClassVar[str] = "choice"

    values: tuple[Any, ...]

    @classmethod
    def parse(cls, settings: Any) -> Self:
        return cls(tuple(_as_list(settings)))

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

    def plain(self) -> dict[str, Any]:
        return {self.kind: list(self.values)}

    def __str__(self) -> str:
        return f"choice {list(self.values)}"


@dataclass(frozen=True)
class _Subset(Generic[Member]):
    """Some of ``of``, in its order: every subset of ``at_least`` to ``at_most`` members."""

    kind: ClassVar[str]

    of: tuple[Member, ...]
    at_most: int
    at_least: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.at_least <= self.at_most <= len(self.of):
            raise ValueError(
                f"needs 0 <= at_least <= at_most <= {len(self.of)}, "
                f"found at_least {self.at_least} and at_most {self.at_most}"
            )

    @classmethod
    def parse(cls, settings: Any) -> Self:
        fields = dict(settings) if isinstance(settings, Mapping) else {"of": settings}
        if unknown_fields := set(fields) - {"of", "at_most", "at_least"}:
            raise ValueError(
                unknown_message("field", min(unknown_fields), ("of", "at_most", "at_least"))
            )
        of = tuple(_as_list(fields.pop("of", None)))
        return cls(of, **{"at_most": len(of), **fields})

    def suggest(self, name: str, suggester: Suggester) -> tuple[Member, ...]:
        """One question for each member, as long as its answer is open."""
        chosen: list[Member] = []
        for position, member in enumerate(self.of):
            remaining = len(self.of) - position
            if len(chosen) == self.at_most:
                break
            is_required = self.at_least - len(chosen) == remaining
            if is_required or suggester.suggest_index(f"{name}.{member}", 2, ["without", "with"]):
                chosen.append(member)
        return tuple(chosen)

    def contains(self, value: Any) -> bool:
        if not (isinstance(value, list | tuple) and all(map(self._is_member, value))):
            return False
        length_allowed = self.at_least <= len(value) <= self.at_most
        return length_allowed and tuple(value) == tuple(m for m in self.of if m in value)

    def _is_member(self, value: Any) -> bool:
        """Whether ``value`` has the type of a member."""
        raise NotImplementedError

    def grid(self, num_points: int) -> tuple[tuple[Member, ...], ...]:
        lengths = range(self.at_least, self.at_most + 1)
        return tuple(subset for n in lengths for subset in itertools.combinations(self.of, n))

    def plain(self) -> dict[str, Any]:
        limits = {"at_most": self.at_most, "at_least": self.at_least}
        return {self.kind: {"of": list(self.of), **limits}}


@dataclass(frozen=True)
class OrderedSubset(_Subset[str]):
    """A chain: an ordered selection from ``of``, largest first (TAKD, section 3)."""

    kind: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("needs at least one member, found an empty list")
        if not all(isinstance(member, str) for member in self.of):
            raise ValueError(f"needs names of networks, found {list(self.of)}")
        if len(set(self.of)) != len(self.of):
            raise ValueError(f"names a member twice: {list(self.of)}")
        super().__post_init__()

    def _is_member(self, value: Any) -> bool:
        return isinstance(value, str)

    def __str__(self) -> str:
        return f"chain of {list(self.of)}, {self.at_least} to {self.at_most} long"


@dataclass(frozen=True)
class CutPoints(_Subset[int]):
    """The points at which a network is cut, some of ``of``, in increasing order."""

    kind: ClassVar[str] = "cuts"

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("needs at least one point, found an empty list")
        if not all(type(point) is int for point in self.of):
            raise ValueError(f"needs whole numbers, found {list(self.of)}")
        if any(after <= before for before, after in itertools.pairwise(self.of)):
            raise ValueError(f"needs points in increasing order, found {list(self.of)}")
        super().__post_init__()

    def _is_member(self, value: Any) -> bool:
        return type(value) is int

    def __str__(self) -> str:
        return f"cuts at {list(self.of)}, {self.at_least} to {self.at_most} of them"


_DOMAIN_PARSERS: Mapping[str, Callable[[Any], Domain]] = {
    domain.kind: domain.parse
    for domain in (Uniform, LogUniform, Integers, Choice, OrderedSubset, CutPoints)
}


def parse_domain(
    data: Any, path: str = "", extra_kinds: Mapping[str, Callable[[Any], Domain]] | None = None
) -> Domain:
    """Read a domain as experiment files write it, such as ``{log_uniform: [1, 20]}``.

    Args:
        extra_kinds: kinds that other packages know: name -> parser of their settings.

    Raises:
        ConfigError: not a known kind, or limits between which no value lies.
    """
    parsers = {**_DOMAIN_PARSERS, **(extra_kinds or {})}
    if not (isinstance(data, Mapping) and len(data) == 1):
        forms = ", ".join("{" + kind + ": ...}" for kind in parsers)
        raise ConfigError([Problem(path, f"a domain is one of {forms}; found {data!r}")])
    kind, settings = next(iter(data.items()))
    if kind not in parsers:
        raise ConfigError([Problem(path, unknown_message("kind of domain", kind, parsers))])
    try:
        return parsers[kind](settings)
    except ConfigError as error:
        raise error.with_prefix(path) from None
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem(path, f"{kind}: {error}")]) from None


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"needs a list, found {value!r}")
    return list(value)
