"""What a method requires of its teachers, as plain values.

``MethodConfig.requirements`` returns them. A search adds the stages that meet them; in a notebook
you prepare the teachers yourself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from stillhouse.methods.core.config.training import Training
from stillhouse.spaces.config.problems import ConfigError


def _check_placement(at: Any) -> Any:
    """Reject a value that is neither ``stages`` nor names, in one message."""
    names = isinstance(at, list | tuple) and at and all(isinstance(n, str) for n in at)
    if at != "stages" and not names:
        raise ConfigError(f"needs stages or a list of blocks, found {at!r}")
    return at


HeadPlacement = Annotated[Literal["stages"] | tuple[str, ...], BeforeValidator(_check_placement)]
"""``stages``, the last blocks of each resolution; or names of blocks."""


@dataclass(frozen=True)
class TeacherRequirement:
    """The base of all requirements."""


@dataclass(frozen=True)
class SeveralTeachers(TeacherRequirement):
    """At least ``count`` teachers: missing ones are trained again with other seeds."""

    count: int


@dataclass(frozen=True)
class HeadedTeachers(TeacherRequirement):
    """Teachers with heads; teachers without heads get linear ones at ``at``.

    ``training`` and ``seed`` train those heads. ``named`` are blocks that must have a head.
    """

    at: HeadPlacement
    training: Training
    seed: int
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitTeachers(TeacherRequirement):
    """Teachers that split every class into ``subclasses``; other teachers are trained again.

    Their objective gains ``subclass_contrast`` with weight ``contrast`` and setting ``tau``, if the
    weight is above 0.
    """

    subclasses: int
    contrast: float
    tau: float


TEACHERS_HELP = "teachers at least; missing ones are trained again with other seeds"
