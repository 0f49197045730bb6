"""``do: invert``: training images synthesised from a teacher, for use without its data.

DeepInversion (Yin et al. 2020); see ``stillhouse.methods.core.synthesis.inversion``. A ``train``
entry trains on them with ``images: ENTRY``. The data of the experiment provides shape, classes and
normalisation, but no image.
"""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.synthesis.inversion import (
    Inversion,
    require_running_statistics,
)
from stillhouse.search.assembly.network import sketch_and_cuts
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import (
    Stage,
)
from stillhouse.search.stages.ops.invert import InvertTeacher
from stillhouse.spaces.config.base import canonical_json, setting
from stillhouse.spaces.config.domains import Domain


class Invert(StageConfig, Inversion):
    """An entry that synthesises images from a teacher."""

    teacher: str = setting(..., "the entry whose network is inverted; it needs batch norm")

    def dependencies(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def is_reseeded(self) -> bool:
        return False  # repetitions share the images as they share the teacher

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        teacher = expanded_dependencies[self.teacher].stage.require_network("teacher", "to invert")
        if (spec := getattr(teacher.operation, "network", None)) is not None:
            about = facts(data)
            spec_json = canonical_json(spec.plain())
            require_running_statistics(sketch_and_cuts(spec_json, about.shape, about.classes)[0])
        settings = {field: getattr(self, field) for field in Inversion.model_fields}
        operation = InvertTeacher(**settings, seed=self.seed)
        return ExpandedStage((Stage(name, operation, data, (teacher,)),))

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        return type(self).search_space().get(path[0]) if len(path) == 1 else None
