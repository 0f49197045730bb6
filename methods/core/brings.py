"""What a method needs before anything can be learnt with it: plain values, no work of their own.

The settings of a method say it (:meth:`methods.core.method.MethodConfig.brings`); in a search the
recipe gains the stages that make it, and in a notebook you make it yourself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Brings:
    """Base of what a method may need of its teachers."""


@dataclass(frozen=True)
class SeveralTeachers(Brings):
    """At least ``count`` teachers: those there are made again from other seeds until there are."""

    count: int


TEACHERS = "teachers at least: named ones are made again from other seeds until there are so many"
