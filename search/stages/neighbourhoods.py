"""``do: neighbourhoods``: replacements for runs of a teacher's blocks, each distilled alone.

Every interval of blocks between two cuts, with every candidate and every pair of widths, is a stage
of its own (Shao et al. 2020; widths by principal channels). One more candidate, a longer interval
or another budget later leaves all that are there untouched.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache

from pydantic import field_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.synthetic_inputs import MEANING, Inputs, require_norms
from stillhouse.methods.core.training.train import Training
from stillhouse.search.assembly.network import Piece, outline
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood, LearnBoundary
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.config.base import canonical_json, fingerprint, knob
from stillhouse.spaces.config.domains import Choice, Domain, Integers
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.cuts import intervals
from stillhouse.spaces.modules.network import Shape, beside
from stillhouse.spaces.network_spec import NetworkSpec


class Neighbourhoods(Kind):
    """An entry that distils all candidates for all intervals of a teacher."""

    teacher: str = knob(..., "the entry whose network is cut")
    candidates: tuple[BlockSpec, ...] = knob(..., "kinds of block: names, or {name: {settings}}")
    longest: int = knob(2, "blocks an interval may have", Integers(1, 4), ge=1)
    cuts: tuple[int, ...] | None = knob(None, "where it may be cut; none means between all blocks")
    widths: tuple[float, ...] = knob((1.0,), "shares of the teacher's channels at a cut")
    training: Training = knob(Training(epochs=4, lr=0.02), "how each is distilled")
    inputs: Inputs = knob("data", MEANING, Choice(("data", "noise", "statistics")))

    @field_validator("training")
    @classmethod
    def _on_one_worker(cls, training: Training) -> Training:
        return training.on_one_worker("neighbourhoods of one pass learn")

    def needs(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def repeated(self) -> bool:
        return False

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        teacher = needed[self.teacher].stage
        told = (name, teacher.key, fingerprint(data.identity()), self.fingerprint())
        if told not in _LAID_OUT:  # thousands of stages, the same for every proposal of a search
            _LAID_OUT.clear()
            _LAID_OUT[told] = self._lay_out(name, teacher, data)
        return _LAID_OUT[told]

    def _lay_out(self, name: str, teacher: Stage, data: DataConfig) -> Entry:
        spec, about = cut_open(teacher), facts(data)
        if not about.sizes["validation"]:
            message = "holds nothing out, and neighbourhoods are scored there; set validation: 0.1"
            raise ConfigError([Problem("data", message)])
        if self.inputs == "statistics":
            require_norms(outline(canonical_json(spec.plain()), about.shape, about.classes)[0])
        pieces = self._pieces(spec, about.shape, about.classes)
        return Entry(tuple(self._stage(name, teacher, data, piece) for piece in pieces))

    def _pieces(self, spec: NetworkSpec, shape: Shape, classes: int) -> Iterator[Piece]:
        told = canonical_json(spec.plain())
        found = intervals(outline(told, shape, classes)[1], self.longest, self.cuts)
        cuts = {each.start for each in found}
        for each in found:
            # Blocks kept one by one are the same network as a run of them kept.
            divided = any(each.start < cut < each.stop for cut in cuts)
            for enter, leave in itertools.product(self.widths, repeat=2):
                for block in self.candidates:
                    piece = Piece(each.start, each.stop, block, enter, leave)
                    redundant = block.kind == "kept" and divided
                    if not redundant and _fits(told, shape, classes, canonical_json(piece.plain())):
                        yield piece

    def _stage(self, name: str, teacher: Stage, data: DataConfig, piece: Piece) -> Stage:
        work = DistilNeighbourhood(
            start=piece.start,
            stop=piece.stop,
            block=piece.block,
            enter=piece.enter,
            leave=piece.leave,
            training=self.training,
            inputs=self.inputs,
            seed=self.seed,
        )
        ends = {piece.start: piece.enter, piece.stop: piece.leave}
        bases = tuple(
            Stage(f"{name}/cut{cut}", LearnBoundary(cut=cut, inputs=self.inputs), data, (teacher,))
            for cut, width in ends.items()
            if width < 1.0
        )
        return Stage(f"{name}/{piece.label}", work, data, (teacher, *bases))

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("training", field):
                return Training.space().get(field)
            case (field,):
                return type(self).space().get(field)
        return None


_LAID_OUT: dict[tuple[str, ...], Entry] = {}


def cut_open(teacher: Stage) -> NetworkSpec:
    """The network of a teacher that is to be cut.

    Raises:
        ConfigError: its structure is not known before it is made.
    """
    if isinstance(teacher.work, TrainNetwork) and teacher.work.network is not None:
        return teacher.work.network
    message = f"{teacher.label} is no network that an experiment names; cut one that is"
    raise ConfigError([Problem("teacher", message)])


@lru_cache(maxsize=16384)
def _fits(spec: str, shape: Shape, classes: int, piece: str) -> bool:
    """Whether a kind of block fits a place; tried once in this process, without weights."""
    network, at = outline(spec, shape, classes)
    try:
        with beside(network):
            Piece.parse(json.loads(piece)).build(network, at)
    except ConfigError:
        return False
    return True
