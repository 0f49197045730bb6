"""``do: neighbourhoods``: replacements for intervals of a teacher's blocks, distilled one by one.

Each interval between two cuts, with each candidate and each pair of widths, is a stage of its own
(Shao et al. 2020; widths by PCA projection). More candidates, longer intervals or other budgets
therefore reuse the stages in the library.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache

from pydantic import field_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.synthetic_inputs import (
    INPUTS_HELP,
    InputKind,
    require_batch_norm,
)
from stillhouse.methods.core.training.train import Training
from stillhouse.search.assembly.network import BlockReplacement, sketch_and_cuts
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood, LearnBoundary
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.config.base import canonical_json, fingerprint, setting
from stillhouse.spaces.config.domains import Choice, Domain, Integers
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.cuts import intervals
from stillhouse.spaces.modules.network import Shape, on_device_of
from stillhouse.spaces.network_spec import NetworkSpec


class Neighbourhoods(StageConfig):
    """An entry that distils all candidates for all intervals of a teacher."""

    teacher: str = setting(..., "the entry whose network is cut")
    candidates: tuple[BlockSpec, ...] = setting(..., "kinds of block: names, or {name: {settings}}")
    longest: int = setting(2, "maximum number of blocks in an interval", Integers(1, 4), ge=1)
    cuts: tuple[int, ...] | None = setting(None, "positions of the cuts; none: between all blocks")
    widths: tuple[float, ...] = setting(
        (1.0,), "widths at a cut, as shares of the teacher's channels"
    )
    training: Training = setting(Training(epochs=4, lr=0.02), "training of every replacement")
    inputs: InputKind = setting("data", INPUTS_HELP, Choice(("data", "noise", "statistics")))

    @field_validator("training")
    @classmethod
    def _require_one_worker(cls, training: Training) -> Training:
        return training.require_single_worker("neighbourhoods of one batch learn")

    def dependencies(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def is_reseeded(self) -> bool:
        return False

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        teacher = expanded_dependencies[self.teacher].stage
        cache_key = (name, teacher.key, fingerprint(data.identity()), self.fingerprint())
        if (
            cache_key not in _EXPANSION_CACHE
        ):  # thousands of stages, the same for every proposal of a search
            _EXPANSION_CACHE.clear()
            _EXPANSION_CACHE[cache_key] = self._expand_uncached(name, teacher, data)
        return _EXPANSION_CACHE[cache_key]

    def _expand_uncached(self, name: str, teacher: Stage, data: DataConfig) -> ExpandedStage:
        spec, about = require_named_network(teacher), facts(data)
        if not about.sizes["validation"]:
            message = "has no validation split, which scores neighbourhoods; set validation: 0.1"
            raise ConfigError([Problem("data", message)])
        if self.inputs == "statistics":
            require_batch_norm(
                sketch_and_cuts(canonical_json(spec.plain()), about.shape, about.classes)[0]
            )
        replacements = self._replacements(spec, about.shape, about.classes)
        return ExpandedStage(
            tuple(self._stage(name, teacher, data, replacement) for replacement in replacements)
        )

    def _replacements(
        self, spec: NetworkSpec, shape: Shape, classes: int
    ) -> Iterator[BlockReplacement]:
        spec_json = canonical_json(spec.plain())
        block_intervals = intervals(
            sketch_and_cuts(spec_json, shape, classes)[1], self.longest, self.cuts
        )
        cuts = {interval.start for interval in block_intervals}
        for interval in block_intervals:
            # An interval of kept blocks is the same network as its blocks kept one by one.
            contains_cut = any(interval.start < cut < interval.stop for cut in cuts)
            for enter, leave in itertools.product(self.widths, repeat=2):
                for block in self.candidates:
                    replacement = BlockReplacement(
                        interval.start, interval.stop, block, enter, leave
                    )
                    is_redundant = block.name == "kept" and contains_cut
                    if not is_redundant and _fits(
                        spec_json, shape, classes, canonical_json(replacement.plain())
                    ):
                        yield replacement

    def _stage(
        self, name: str, teacher: Stage, data: DataConfig, replacement: BlockReplacement
    ) -> Stage:
        operation = DistilNeighbourhood(
            start=replacement.start,
            stop=replacement.stop,
            block=replacement.block,
            enter=replacement.enter,
            leave=replacement.leave,
            training=self.training,
            inputs=self.inputs,
            seed=self.seed,
        )
        width_at_cut = {replacement.start: replacement.enter, replacement.stop: replacement.leave}
        boundary_stages = tuple(
            Stage(f"{name}/cut{cut}", LearnBoundary(cut=cut, inputs=self.inputs), data, (teacher,))
            for cut, width in width_at_cut.items()
            if width < 1.0
        )
        return Stage(f"{name}/{replacement.label}", operation, data, (teacher, *boundary_stages))

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("training", field):
                return Training.search_space().get(field)
            case (field,):
                return type(self).search_space().get(field)
        return None


_EXPANSION_CACHE: dict[tuple[str, ...], ExpandedStage] = {}


def require_named_network(teacher: Stage) -> NetworkSpec:
    """The network of a teacher, whose blocks are replaced.

    Raises:
        ConfigError: its structure is not known before it is built.
    """
    if isinstance(teacher.operation, TrainNetwork) and teacher.operation.network is not None:
        return teacher.operation.network
    message = (
        f"{teacher.label} has no network that the experiment names; choose a teacher that has one"
    )
    raise ConfigError([Problem("teacher", message)])


@lru_cache(maxsize=16384)
def _fits(spec_json: str, shape: Shape, classes: int, replacement_json: str) -> bool:
    """Whether a block fits its interval; cached in this process, built without weights."""
    network, cut_shapes = sketch_and_cuts(spec_json, shape, classes)
    try:
        with on_device_of(network):
            BlockReplacement.parse(json.loads(replacement_json)).build(network, cut_shapes)
    except ConfigError:
        return False
    return True
