"""What the methods of an objective need first, turned into stages of the recipe.

A method says what it needs as a plain value
(:class:`stillhouse.methods.core.config.requirements.Brings`, from ``brings()`` of its settings);
here each kind of value has its way: from the teachers there are to those the method learns from.
What is brought are ordinary stages, with labels below their teacher's: planned, shared through the
library and made once like any other.

A new need takes three steps: a frozen dataclass in ``methods/core/config/requirements.py``,
``brings()`` of the method's settings returning it, and a line in ``_WAYS`` here. A way takes the
value and the teachers and returns teachers; it finds what is there already and then brings nothing.
Its mistakes are :class:`ConfigError` with paths from the method's fields on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stillhouse.methods.core.config.requirements import (
    Brings,
    HeadedTeachers,
    SeveralTeachers,
    SplitTeachers,
)
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.heads import (
    AttachHeads,
    headed,
    heads_on,
    known_heads,
    require_blocks,
)
from stillhouse.spaces.config.problems import ConfigError, Problem

Teachers = tuple[Stage, ...]
Way = Callable[[Any, Teachers], Teachers]


def brought(objective: Objective | None, teachers: Sequence[Stage]) -> Teachers:
    """The teachers as the methods of ``objective`` want them; the same ones where none asks.

    Raises:
        ConfigError: what is needed cannot be made of these teachers.
    """
    found = tuple(teachers)
    needs = objective.brings() if objective and found else ()
    for kind, way in _WAYS:
        for name, value in needs:
            if type(value) is kind:
                try:
                    found = way(value, found)
                except ConfigError as error:
                    raise error.under(f"objective.{name}") from None
    return found


def _several(value: SeveralTeachers, teachers: Teachers) -> Teachers:
    """The teachers in turn made again, each time from other seeds."""
    return (*teachers, *_again(teachers, value.count - len(teachers)))


def _again(teachers: Teachers, count: int) -> Iterator[Stage]:
    for i in range(count):
        one = teachers[i % len(teachers)]
        yield again(one, 1 + i // len(teachers))


def _headed(value: HeadedTeachers, teachers: Teachers) -> Teachers:
    """Every teacher with heads; those that have some stay as they are."""
    settings = {"at": value.at, "training": value.training, "seed": value.seed}
    work = AttachHeads.parse(settings)
    found = []
    for teacher in teachers:
        if not headed(teacher):
            teacher = heads_on(f"{teacher.label}/heads", teacher, work, teacher.data)
        found.append(teacher)
        require_blocks("weights", value.named, known_heads(teacher))
    return tuple(found)


def again(stage: Stage, number: int) -> Stage:
    """``stage`` from other random choices: ``teacher/2`` is the first made again.

    Raises:
        ConfigError: it draws nothing at random, like a network that is ready-made.
    """
    parents, work = stage.parents, stage.work.again(number)
    if isinstance(work, AttachHeads):
        parents = tuple(again(parent, number) for parent in parents)
    if work is None:
        message = (
            f"{stage.label} is ready-made and would be the same each time; name as many entries "
            "under teachers, or leave it at 1"
        )
        raise ConfigError([Problem("teachers", message)])
    return replace(stage, label=f"{stage.label}/{number + 1}", work=work, parents=parents)


def _split(value: SplitTeachers, teachers: Teachers) -> Teachers:
    """Teachers whose classes are whole made again with every class split."""
    settings = {"weight": value.contrast, "tau": value.tau}
    added = {"subclass_contrast": settings} if value.contrast else {}
    return tuple(_with_subclasses(each, value.subclasses, added) for each in teachers)


def _with_subclasses(stage: Stage, subclasses: int, added: Mapping[str, Any]) -> Stage:
    if stage.subclasses == subclasses:
        return stage
    if stage.subclasses > 1:
        message = f"is {subclasses}, and {stage.label} splits every class into {stage.subclasses}"
        raise ConfigError([Problem("subclasses", f"{message}; give both the same")])
    work = stage.work.split(subclasses, added)
    if work is None:
        message = (
            f"{stage.label} is ready-made or goes on from another, so its classes stay whole; name "
            "a teacher that is trained here from its seed, or teach by soft_targets"
        )
        raise ConfigError([Problem("subclasses", message)])
    return replace(stage, label=f"{stage.label}/subclasses{subclasses}", work=work)


# In the order in which they are gone: there are several teachers before each gets something.
_WAYS: tuple[tuple[type[Brings], Way], ...] = (
    (SeveralTeachers, _several),
    (SplitTeachers, _split),
    (HeadedTeachers, _headed),
)
