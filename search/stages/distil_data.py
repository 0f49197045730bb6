"""``do: distil_data``: a few synthetic examples that replace a training split.

Soft-label dataset distillation (Sucholutsky and Schonlau 2021), and with ``labels: hard`` the
original (Wang et al. 2018); see ``stillhouse.methods.core.synthesis.distilling``. A ``train`` entry
trains on the examples with ``data: {distilled: ENTRY}``, in ordinary epochs. With
``few_steps: true`` it takes exactly the distilled steps. Examples of texts are points in the space
of word vectors; their record contains the nearest words.
"""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import require_no_batch_norm
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import (
    Stage,
)
from stillhouse.search.stages.ops.distil_data import DistilData
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.network_spec import NetworkSpec


class Distil(StageConfig, Distilling):
    """An entry that distils a small data set for one network."""

    network: NetworkSpec = setting(
        ..., "name of a network without batch norm, or {name: {settings}}"
    )

    @property
    def is_reseeded(self) -> bool:
        return True  # its first network is that of the student, with the same seed

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        about = facts(data)
        require_no_batch_norm(self.network.build_for_shapes(about.shape, about.classes))
        if unknown_labels := [
            label for label in self.classes or () if not 0 <= label < about.classes
        ]:
            message = f"contains {unknown_labels[0]}, but classes are 0 to {about.classes - 1}"
            raise ConfigError([Problem("classes", message)])
        if data.augment.noise and self.initial_images != "noise":
            field = "image_start" if self.images == "learnt" else "images"
            raise ConfigError(
                [Problem(field, "needs images, but data.augment.noise leaves none; remove it")]
            )
        self.check_split(about.sizes["validation"])
        settings = {field: getattr(self, field) for field in Distilling.model_fields}
        operation = DistilData(**settings, network=self.network, seed=self.seed)
        return ExpandedStage((Stage(name, operation, data),))

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("network", field):
                return type(self.network.settings).search_space().get(field)
            case (field,):
                return type(self).search_space().get(field)
        return None
