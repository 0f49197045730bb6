"""What the methods of an objective need first, turned into stages of the recipe.

A method says what it needs as a plain value
(:class:`stillhouse.methods.core.config.requirements.TeacherRequirement`, from ``brings()`` of its
settings); here each kind of value has its way: from the teachers there are to those the method
learns from. What is brought are ordinary stages, with labels below their teacher's: planned, shared
through the library and made once like any other.

A new need takes three steps: a frozen dataclass in ``methods/core/config/requirements.py``,
``brings()`` of the method's settings returning it, and a line in ``_EXPANDERS`` here. A way takes
the value and the teachers and returns teachers; it finds what is there already and then brings
nothing. Its mistakes are :class:`ConfigError` with paths from the method's fields on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stillhouse.methods.core.config.requirements import (
    HeadedTeachers,
    SeveralTeachers,
    SplitTeachers,
    TeacherRequirement,
)
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.heads import (
    AttachHeads,
    has_heads,
    head_blocks_of,
    make_heads_stage,
    require_known_blocks,
)
from stillhouse.spaces.config.problems import ConfigError, Problem

Teachers = tuple[Stage, ...]
TeacherExpander = Callable[[Any, Teachers], Teachers]


def expand_teachers(objective: Objective | None, teachers: Sequence[Stage]) -> Teachers:
    """The teachers as the methods of ``objective`` want them; the same ones where none asks.

    Raises:
        ConfigError: what is needed cannot be made of these teachers.
    """
    expanded = tuple(teachers)
    requirements = objective.requirements() if objective and expanded else ()
    for requirement_type, expander in _EXPANDERS:
        for method, requirement in requirements:
            if type(requirement) is requirement_type:
                try:
                    expanded = expander(requirement, expanded)
                except ConfigError as error:
                    raise error.with_prefix(f"objective.{method}") from None
    return expanded


def _expand_several(requirement: SeveralTeachers, teachers: Teachers) -> Teachers:
    """The teachers in turn made again, each time from other seeds."""
    return (*teachers, *_replicas(teachers, requirement.count - len(teachers)))


def _replicas(teachers: Teachers, count: int) -> Iterator[Stage]:
    for i in range(count):
        teacher = teachers[i % len(teachers)]
        yield replica_of(teacher, 1 + i // len(teachers))


def _attach_heads(requirement: HeadedTeachers, teachers: Teachers) -> Teachers:
    """Every teacher with heads; those that have some stay as they are."""
    settings = {"at": requirement.at, "training": requirement.training, "seed": requirement.seed}
    operation = AttachHeads.parse(settings)
    headed_teachers = []
    for teacher in teachers:
        if not has_heads(teacher):
            teacher = make_heads_stage(f"{teacher.label}/heads", teacher, operation, teacher.data)
        headed_teachers.append(teacher)
        require_known_blocks("weights", requirement.named, head_blocks_of(teacher))
    return tuple(headed_teachers)


def replica_of(stage: Stage, index: int) -> Stage:
    """``stage`` from other random choices: ``teacher/2`` is the first made again.

    Raises:
        ConfigError: it draws nothing at random, like a network that is ready-made.
    """
    parents, operation = stage.parents, stage.operation.replica(index)
    if isinstance(operation, AttachHeads):
        parents = tuple(replica_of(parent, index) for parent in parents)
    if operation is None:
        message = (
            f"{stage.label} is ready-made and would be the same each time; name as many entries "
            "under teachers, or leave it at 1"
        )
        raise ConfigError([Problem("teachers", message)])
    return replace(stage, label=f"{stage.label}/{index + 1}", operation=operation, parents=parents)


def _split_teachers(requirement: SplitTeachers, teachers: Teachers) -> Teachers:
    """Teachers whose classes are whole made again with every class split."""
    settings = {"weight": requirement.contrast, "tau": requirement.tau}
    extra_methods = {"subclass_contrast": settings} if requirement.contrast else {}
    return tuple(
        _with_subclasses(teacher, requirement.subclasses, extra_methods) for teacher in teachers
    )


def _with_subclasses(stage: Stage, subclasses: int, extra_methods: Mapping[str, Any]) -> Stage:
    if stage.subclasses == subclasses:
        return stage
    if stage.subclasses > 1:
        message = f"is {subclasses}, and {stage.label} splits every class into {stage.subclasses}"
        raise ConfigError([Problem("subclasses", f"{message}; give both the same")])
    operation = stage.operation.split_classes(subclasses, extra_methods)
    if operation is None:
        message = (
            f"{stage.label} is ready-made or goes on from another, so its classes stay whole; name "
            "a teacher that is trained here from its seed, or teach by soft_targets"
        )
        raise ConfigError([Problem("subclasses", message)])
    return replace(stage, label=f"{stage.label}/subclasses{subclasses}", operation=operation)


# In the order in which they are gone: there are several teachers before each gets something.
_EXPANDERS: tuple[tuple[type[TeacherRequirement], TeacherExpander], ...] = (
    (SeveralTeachers, _expand_several),
    (SplitTeachers, _split_teachers),
    (HeadedTeachers, _attach_heads),
)
