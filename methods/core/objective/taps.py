"""Taps: which block of the student is compared with which block of a teacher.

A stage is a run of blocks whose maps have one resolution; its end, the last of them, has seen most
of what the stage does. Stages are paired from the deep end, so that networks of different depth
and resolution fit as well: the last with the last, and so on until one network has no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator
from torch import Tensor, nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Method, MethodConfig, Pair, Progress
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown
from stillhouse.spaces.modules.heads import stage_ends
from stillhouse.spaces.modules.network import Network, Output, Shape

_PLACES = ("last", "middle", "stages")


def _known(at: Any) -> Any:
    """Refuse what is neither a place nor pairs of names, in one line for both."""
    if isinstance(at, str) and at not in _PLACES:
        raise ConfigError(unknown("place", at, _PLACES))
    if not isinstance(at, str):
        pairs = at if isinstance(at, list | tuple) else ()
        if not (pairs and all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs)):
            places = ", ".join(_PLACES)
            raise ConfigError(f"needs {places} or [[student block, teacher block]], found {at!r}")
    return at


At = Annotated[
    Literal["last", "middle", "stages"] | tuple[tuple[str, str], ...], BeforeValidator(_known)
]
"""``stages``: all ends of stages; ``last``: the deepest; ``middle``: the one in the middle of
them (the deeper end's, of an even number); or pairs ``[[student block, teacher block], ...]``."""


class FeaturePair(NamedTuple):
    """Two blocks to compare, and the shapes (channels, height, width) of their outputs."""

    student: str
    teacher: str
    student_shape: Shape
    teacher_shape: Shape


def paired_features(pair: Pair, teacher: int, at: At) -> tuple[FeaturePair, ...]:
    """The blocks of the student and of teacher number ``teacher`` to compare, shallow ones first.

    Raises:
        ConfigError: a block that is not there or whose output is no map, or networks without any.
    """
    student = _maps(pair.student, pair.sample, "the student")
    taught = _maps(pair.teachers[teacher], pair.sample, f"teacher {teacher + 1}")
    if not isinstance(at, str):
        return _named(at, student, taught, f"teacher {teacher + 1}")
    deep = zip(reversed(stage_ends(student)), reversed(stage_ends(taught)), strict=False)
    stages = [FeaturePair(s, t, student[s], taught[t]) for s, t in deep][::-1]
    match at:
        case "last":
            return (stages[-1],)
        case "middle":
            return (stages[len(stages) // 2],)
    return tuple(stages)


def same_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [..., H, W] averaged down to the smaller height and width of the two."""
    height, width = (min(one.shape[i], other.shape[i]) for i in (-2, -1))
    return _pooled(one, height, width), _pooled(other, height, width)


class FeatureMethod(Method):
    """A method that compares maps pair by pair.

        L = mean_i sum_l d(student_l, teacher_il, connector_il)

    over teachers i and pairs l. A file gives ``distance`` and, where it trains something of its
    own, ``connector``. Its settings have ``at``.
    """

    smallest: ClassVar[int] = 1
    """Pixels a map must have for the comparison to say anything."""

    def __init__(self, config: Any, pair: Pair) -> None:
        super().__init__(config, pair)
        teachers = range(len(pair.teachers))
        self.pairs = [self._fitting(paired_features(pair, i, config.at)) for i in teachers]
        self.connectors = nn.ModuleList(
            nn.ModuleList(self.connector(found) for found in pairs) for pairs in self.pairs
        )

    def connector(self, found: FeaturePair) -> nn.Module:
        """What is trained beside the student for one pair; it sees the student's map."""
        return nn.Identity()

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """How far two maps [B, C, H, W] are from each other, a scalar averaged over the batch."""
        raise NotImplementedError

    def student_taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(found.student for pairs in self.pairs for found in pairs))

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(found.teacher for found in self.pairs[teacher]))

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From the features of the student and of every teacher."""
        each = []
        for output, pairs, connectors in zip(teachers, self.pairs, self.connectors, strict=True):
            assert isinstance(connectors, nn.ModuleList)
            for found, connector in zip(pairs, connectors, strict=True):
                mine, theirs = student.features[found.student], output.features[found.teacher]
                each.append(self.distance(mine, theirs.detach(), connector))
        return torch.stack(each).sum() / len(teachers)

    def _fitting(self, pairs: tuple[FeaturePair, ...]) -> tuple[FeaturePair, ...]:
        kept = tuple(found for found in pairs if _pixels(found) >= self.smallest)
        if not kept:
            message = f"compares maps of {self.smallest} pixels or more, and finds smaller ones"
            raise ConfigError([Problem("at", f"{message}; name shallower blocks")])
        return kept


class FeatureConfig(MethodConfig):
    """Settings of a :class:`FeatureMethod`; each declares its own default of ``at``."""

    at: At


def _maps(network: Network, images: Tensor, who: str) -> dict[str, Shape]:
    """The blocks whose outputs are maps [n, C, H, W], with their shapes, in order."""
    with torch.no_grad():
        features = network(images[:1], None).features
    maps = {name: x for name, x in features.items() if x.dim() == 4}
    if not maps:
        raise ConfigError(f"compares maps of features, but no block of {who} gives one")
    return {name: (x.shape[1], x.shape[2], x.shape[3]) for name, x in maps.items()}


def _named(
    at: Sequence[tuple[str, str]],
    student: Mapping[str, Shape],
    taught: Mapping[str, Shape],
    teacher: str,
) -> tuple[FeaturePair, ...]:
    problems = [
        Problem("at", unknown(f"block of {who} that gives a map", name, maps))
        for names in at
        for name, maps, who in zip(names, (student, taught), ("the student", teacher), strict=True)
        if name not in maps
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(FeaturePair(s, t, student[s], taught[t]) for s, t in at)


def _pixels(found: FeaturePair) -> int:
    height, width = (min(found.student_shape[i], found.teacher_shape[i]) for i in (1, 2))
    return height * width


def _pooled(x: Tensor, height: int, width: int) -> Tensor:
    return x if x.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(x, (height, width))
