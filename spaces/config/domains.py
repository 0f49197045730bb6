"""Domains: the values that a field of an experiment may take.

A domain is a frozen value that can be printed, compared and hashed. It does not know who draws
from it: ``draw`` asks a :class:`Chooser`, which the search implements with Optuna, a grid or a
random generator. A chain asks one yes/no question per member, so that a sampler which models
each question by itself (TPE) can learn that one particular assistant helps; so do cuts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from stillhouse.spaces.config.problems import ConfigError, Problem, unknown

Scalar = bool | int | float | str

Member = TypeVar("Member", str, int)


class Chooser(Protocol):
    """Whoever decides: one answer per named question."""

    def uniform(self, name: str, low: float, high: float, log: bool) -> float: ...

    def integer(self, name: str, low: int, high: int, step: int) -> int: ...

    def choice(self, name: str, count: int, labels: Sequence[str]) -> int:
        """The index of one of ``count`` options; ``labels`` name them for people."""
        ...


class Domain(Protocol):
    """The values a field may take."""

    def draw(self, name: str, chooser: Chooser) -> Any: ...

    def contains(self, value: Any) -> bool: ...

    def grid(self, points: int) -> tuple[Any, ...]:
        """All values, or ``points`` evenly spread ones where there are infinitely many."""
        ...


@runtime_checkable
class Opening(Domain, Protocol):
    """A domain whose values have settings of their own: each opens further questions."""

    def opened(self, value: Any) -> Mapping[str, Domain]:
        """Path below the field -> the values that it may take once ``value`` is drawn."""
        ...

    def laid(self, held: Any, value: Any) -> Any:
        """What the field holds with ``value`` in place, given what it holds in the file."""
        ...

    def begun(self, held: Any) -> Any:
        """What the field holds where nothing is drawn, given what it holds in the file."""
        ...

    def plain(self) -> dict[str, Any]:
        """As an experiment file writes it."""
        ...


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Uniform:
    """A real number, every value between ``low`` and ``high`` equally likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (_number(self.low) and _number(self.high) and self.low < self.high):
            raise ValueError(f"needs two finite numbers low < high, found {self}")

    def draw(self, name: str, chooser: Chooser) -> float:
        return chooser.uniform(name, self.low, self.high, log=False)

    def contains(self, value: Any) -> bool:
        return _number(value) and self.low <= value <= self.high

    def grid(self, points: int) -> tuple[float, ...]:
        if points == 1:
            return ((self.low + self.high) / 2,)
        step = (self.high - self.low) / (points - 1)
        return (*(self.low + i * step for i in range(points - 1)), self.high)

    def __str__(self) -> str:
        return f"uniform [{self.low}, {self.high}]"


@dataclass(frozen=True)
class LogUniform:
    """A positive real number whose logarithm is uniform between those of ``low`` and ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (_number(self.low) and _number(self.high) and 0 < self.low < self.high):
            raise ValueError(f"needs two finite numbers 0 < low < high, found {self}")

    def draw(self, name: str, chooser: Chooser) -> float:
        return chooser.uniform(name, self.low, self.high, log=True)

    def contains(self, value: Any) -> bool:
        return _number(value) and self.low <= value <= self.high

    def grid(self, points: int) -> tuple[float, ...]:
        inner = Uniform(math.log(self.low), math.log(self.high)).grid(points)
        return tuple(min(max(math.exp(x), self.low), self.high) for x in inner)

    def __str__(self) -> str:
        return f"log_uniform [{self.low}, {self.high}]"


@dataclass(frozen=True)
class Integers:
    """A whole number between ``low`` and ``high``, both included, in steps of ``step``."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        whole = all(type(x) is int for x in (self.low, self.high, self.step))
        if not (whole and self.low <= self.high and self.step >= 1):
            raise ValueError(f"needs whole numbers low <= high and a step of 1 or more: {self}")

    def draw(self, name: str, chooser: Chooser) -> int:
        return chooser.integer(name, self.low, self.high, self.step)

    def contains(self, value: Any) -> bool:
        return type(value) is int and value in range(self.low, self.high + 1, self.step)

    def grid(self, points: int) -> tuple[int, ...]:
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

    def draw(self, name: str, chooser: Chooser) -> Any:
        labels = [str(value) for value in self.values]
        return self.values[chooser.choice(name, len(self.values), labels)]

    def contains(self, value: Any) -> bool:
        return any(value == v and type(value) is type(v) for v in self.values)

    def grid(self, points: int) -> tuple[Any, ...]:
        return self.values

    def __str__(self) -> str:
        return f"choice {list(self.values)}"


@dataclass(frozen=True)
class Chain:
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

    def draw(self, name: str, chooser: Chooser) -> tuple[str, ...]:
        return _drawn(self.of, self.at_least, self.at_most, name, chooser)

    def contains(self, value: Any) -> bool:
        return tuple(value) in self.grid(0) if isinstance(value, list | tuple) else False

    def grid(self, points: int) -> tuple[tuple[str, ...], ...]:
        return _subsets(self.of, self.at_least, self.at_most)

    def __str__(self) -> str:
        return f"chain of {list(self.of)}, {self.at_least} to {self.at_most} long"


@dataclass(frozen=True)
class Cuts:
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

    def draw(self, name: str, chooser: Chooser) -> tuple[int, ...]:
        return _drawn(self.of, self.at_least, self.at_most, name, chooser)

    def contains(self, value: Any) -> bool:
        if not (isinstance(value, list | tuple) and all(type(point) is int for point in value)):
            return False
        long_enough = self.at_least <= len(value) <= self.at_most
        return long_enough and tuple(value) == tuple(p for p in self.of if p in value)

    def grid(self, points: int) -> tuple[tuple[int, ...], ...]:
        return _subsets(self.of, self.at_least, self.at_most)

    def __str__(self) -> str:
        return f"cuts at {list(self.of)}, {self.at_least} to {self.at_most} of them"


def _check_lengths(members: int, at_least: int, at_most: int) -> None:
    if not 0 <= at_least <= at_most <= members:
        raise ValueError(
            f"needs 0 <= at_least <= at_most <= {members}, "
            f"found at_least {at_least} and at_most {at_most}"
        )


def _drawn(
    of: tuple[Member, ...], at_least: int, at_most: int, name: str, chooser: Chooser
) -> tuple[Member, ...]:
    """One question a member, as long as its answer is open."""
    chosen: list[Member] = []
    for position, member in enumerate(of):
        remaining = len(of) - position
        if len(chosen) == at_most:
            break
        must = at_least - len(chosen) == remaining
        if must or chooser.choice(f"{name}.{member}", 2, ["without", "with"]):
            chosen.append(member)
    return tuple(chosen)


def _subsets(of: tuple[Member, ...], at_least: int, at_most: int) -> tuple[tuple[Member, ...], ...]:
    lengths = range(at_least, at_most + 1)
    return tuple(c for n in lengths for c in itertools.combinations(of, n))


KINDS = ("uniform", "log_uniform", "integers", "choice", "chain", "cuts")


def parse_domain(
    data: Any, path: str = "", more: Mapping[str, Callable[[Any], Domain]] | None = None
) -> Domain:
    """Read a domain as experiment files write it: ``{log_uniform: [1, 20]}`` and so on.

    Args:
        more: further kinds, which other packages know: name -> what reads their settings.

    Raises:
        ConfigError: not a known kind, or limits between which no value lies.
    """
    more = more or {}
    kinds = (*KINDS, *more)
    if not (isinstance(data, Mapping) and len(data) == 1):
        raise ConfigError([Problem(path, f"a domain is one of {_forms(kinds)}; found {data!r}")])
    kind, body = next(iter(data.items()))
    if kind not in kinds:
        raise ConfigError([Problem(path, unknown("kind of domain", kind, kinds))])
    try:
        return more[kind](body) if kind in more else _parse_body(kind, body)
    except ConfigError as error:
        raise error.under(path) from None
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem(path, f"{kind}: {error}")]) from None


def _parse_body(kind: str, body: Any) -> Domain:
    if kind in ("chain", "cuts"):
        fields = dict(body) if isinstance(body, Mapping) else {"of": body}
        if extra := set(fields) - {"of", "at_most", "at_least"}:
            raise ValueError(unknown("field", min(extra), ("of", "at_most", "at_least")))
        of = tuple(_listed(fields.pop("of", None)))
        selection = Chain if kind == "chain" else Cuts
        return selection(of, **{"at_most": len(of), **fields})
    values = _listed(body)
    if kind == "choice":
        return Choice(tuple(values))
    if kind == "integers":
        if len(values) not in (2, 3):
            raise ValueError(f"needs [low, high] or [low, high, step], found {values}")
        return Integers(*values)
    if len(values) != 2:
        raise ValueError(f"needs [low, high], found {values}")
    return Uniform(*values) if kind == "uniform" else LogUniform(*values)


def _listed(body: Any) -> list[Any]:
    if not isinstance(body, list | tuple):
        raise ValueError(f"needs a list, found {body!r}")
    return list(body)


def _forms(kinds: Sequence[str]) -> str:
    return ", ".join("{" + kind + ": ...}" for kind in kinds)


def describe(domain: Domain) -> dict[str, Any]:
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
        case Chain(of, at_most, at_least):
            return {"chain": {"of": list(of), "at_most": at_most, "at_least": at_least}}
        case Cuts(of, at_most, at_least):
            return {"cuts": {"of": list(of), "at_most": at_most, "at_least": at_least}}
        case Opening():
            return domain.plain()
    raise TypeError(f"not a domain: {domain!r}")
