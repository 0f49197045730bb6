"""What a method needs before anything can be learnt with it: plain values, no work of their own.

The settings of a method say it
(:meth:`stillhouse.methods.core.objective.method.MethodConfig.requirements`); in a search the recipe
gains the stages that make it, and in a notebook you make it yourself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from stillhouse.methods.core.config.training import Training
from stillhouse.spaces.config.problems import ConfigError


def _check_placement(at: Any) -> Any:
    """Refuse what is neither a place nor names, in one line for both."""
    names = isinstance(at, list | tuple) and at and all(isinstance(n, str) for n in at)
    if at != "stages" and not names:
        raise ConfigError(f"needs stages or a list of blocks, found {at!r}")
    return at


HeadPlacement = Annotated[Literal["stages"] | tuple[str, ...], BeforeValidator(_check_placement)]
"""``stages``: the ends of all stages of one resolution; or names of blocks."""


@dataclass(frozen=True)
class TeacherRequirement:
    """Base of what a method may need of its teachers."""


@dataclass(frozen=True)
class SeveralTeachers(TeacherRequirement):
    """At least ``count`` teachers: those there are made again from other seeds until there are."""

    count: int


@dataclass(frozen=True)
class HeadedTeachers(TeacherRequirement):
    """Teachers with heads on ``at``; those without any get linear ones (``training``, ``seed``).

    ``named`` are blocks that must have one.
    """

    at: HeadPlacement
    training: Training
    seed: int
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitTeachers(TeacherRequirement):
    """Teachers that split every class into ``subclasses``: those that do not are made again so.

    ``contrast`` and ``tau`` are the weight and the setting of ``subclass_contrast`` that is added
    to what they learn from, if the weight is above 0.
    """

    subclasses: int
    contrast: float
    tau: float


TEACHERS_HELP = (
    "teachers at least: named ones are made again from other seeds until there are so many"
)
