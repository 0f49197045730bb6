"""Taps: which block of the student is compared with which block of a teacher.

A stage is a run of blocks whose maps have one resolution; the last of them is its end. Stages are
paired from the last one backwards until one network has no more. So networks of different depth and
resolution can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator
from torch import Tensor, nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, Method, MethodConfig, Progress
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.heads import stage_ends
from stillhouse.spaces.modules.network import Network, Output, Shape

_PLACEMENTS = ("last", "middle", "stages")


def _check_placement(at: Any) -> Any:
    """Reject a value that is neither a placement nor pairs of names, in one message."""
    if isinstance(at, str) and at not in _PLACEMENTS:
        raise ConfigError(unknown_message("place", at, _PLACEMENTS))
    if not isinstance(at, str):
        pairs = at if isinstance(at, list | tuple) else ()
        if not (pairs and all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs)):
            placements = ", ".join(_PLACEMENTS)
            raise ConfigError(
                f"needs {placements} or [[student block, teacher block]], found {at!r}"
            )
    return at


TapPlacement = Annotated[
    Literal["last", "middle", "stages"] | tuple[tuple[str, str], ...],
    BeforeValidator(_check_placement),
]
"""Blocks to compare: all ends of ``stages``, the ``last`` one, or the ``middle`` one (the deeper of
two); or pairs ``[[student block, teacher block], ...]``."""


class FeaturePair(NamedTuple):
    """Two blocks to compare, and the shapes (channels, height, width) of their outputs."""

    student: str
    teacher: str
    student_shape: Shape
    teacher_shape: Shape

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the student's and of the teacher's map."""
        return self.student_shape[0], self.teacher_shape[0]

    def num_pixels(self) -> int:
        """Pixels of the smaller height and the smaller width."""
        height, width = map(min, self.student_shape[1:], self.teacher_shape[1:])
        return height * width


def pair_features(context: BuildContext, teacher: int, at: TapPlacement) -> tuple[FeaturePair, ...]:
    """The blocks of the student and of teacher number ``teacher`` to compare, shallow ones first.

    Raises:
        ConfigError: a network has no maps, or a named block is unknown or gives no map.
    """
    student_maps = _map_shapes(context.student, context.sample, "the student")
    teacher_maps = _map_shapes(context.teachers[teacher], context.sample, f"teacher {teacher + 1}")
    if not isinstance(at, str):
        return _pair_named_blocks(at, student_maps, teacher_maps, f"teacher {teacher + 1}")
    deepest_first = zip(
        reversed(stage_ends(student_maps)), reversed(stage_ends(teacher_maps)), strict=False
    )
    stages = [FeaturePair(s, t, student_maps[s], teacher_maps[t]) for s, t in deepest_first][::-1]
    match at:
        case "last":
            return (stages[-1],)
        case "middle":
            return (stages[len(stages) // 2],)
    return tuple(stages)


def match_sizes(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [..., H, W] averaged down to the smaller height and width of the two."""
    height, width = (min(one.shape[i], other.shape[i]) for i in (-2, -1))
    return _pool_to(one, height, width), _pool_to(other, height, width)


class FeatureMethod(Method):
    """A method that compares maps pair by pair.

        L = mean_i sum_l d(student_l, teacher_il, connector_il)

    The sums run over teachers i and pairs l. A subclass defines ``distance`` and, if it trains
    layers of its own, ``connector``. Its settings have ``at``.
    """

    min_pixels: ClassVar[int] = 1
    """Smallest number of pixels of a map; smaller maps are left out."""

    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        teachers = range(len(context.teachers))
        self.pairs = [self._large_enough(pair_features(context, i, config.at)) for i in teachers]
        self.connectors = nn.ModuleList(
            nn.ModuleList(self.connector(feature_pair) for feature_pair in pairs)
            for pairs in self.pairs
        )

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        """Layers for one pair, trained with the student; their input is the student's map."""
        return nn.Identity()

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """The distance of two maps [B, C, H, W], a scalar averaged over the batch."""
        raise NotImplementedError

    def student_taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pair.student for pairs in self.pairs for pair in pairs))

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pair.teacher for pair in self.pairs[teacher]))

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From the features of the student and of every teacher."""
        distances = []
        for output, pairs, connectors in zip(teachers, self.pairs, self.connectors, strict=True):
            assert isinstance(connectors, nn.ModuleList)
            for feature_pair, connector in zip(pairs, connectors, strict=True):
                student_map = student.features[feature_pair.student]
                teacher_map = output.features[feature_pair.teacher].detach()
                distances.append(self.distance(student_map, teacher_map, connector))
        return torch.stack(distances).sum() / len(teachers)

    def _large_enough(self, pairs: tuple[FeaturePair, ...]) -> tuple[FeaturePair, ...]:
        large_pairs = tuple(pair for pair in pairs if pair.num_pixels() >= self.min_pixels)
        if not large_pairs:
            message = f"compares maps of {self.min_pixels} pixels or more, found smaller ones"
            raise ConfigError([Problem("at", f"{message}; name shallower blocks")])
        return large_pairs


class FeatureConfig(MethodConfig):
    """Settings of a :class:`FeatureMethod`; each declares its own default of ``at``."""

    at: TapPlacement

    @staticmethod
    def placement_setting(default: str, *choices: str) -> Any:
        """The field ``at`` with a default and the values that a search suggests."""
        return setting(default, "which features are compared", Choice(choices))


def _map_shapes(network: Network, images: Tensor, owner: str) -> dict[str, Shape]:
    """The shapes of all outputs that are maps [n, C, H, W], by block, in order."""
    with torch.no_grad():
        features = network(images[:1], None).features
    maps = {name: x for name, x in features.items() if x.dim() == 4}
    if not maps:
        raise ConfigError(f"compares maps of features, but no block of {owner} gives one")
    return {name: (x.shape[1], x.shape[2], x.shape[3]) for name, x in maps.items()}


def _pair_named_blocks(
    at: Sequence[tuple[str, str]],
    student_maps: Mapping[str, Shape],
    teacher_maps: Mapping[str, Shape],
    teacher: str,
) -> tuple[FeaturePair, ...]:
    problems = [
        Problem("at", unknown_message(f"block of {owner} that gives a map", name, maps))
        for names in at
        for name, maps, owner in zip(
            names, (student_maps, teacher_maps), ("the student", teacher), strict=True
        )
        if name not in maps
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(FeaturePair(s, t, student_maps[s], teacher_maps[t]) for s, t in at)


def _pool_to(x: Tensor, height: int, width: int) -> Tensor:
    return x if x.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(x, (height, width))
