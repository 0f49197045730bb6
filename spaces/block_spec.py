"""The specification of a block: its kind and settings, as an experiment file writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import nn

from stillhouse.spaces.blocks import resolve
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.network import Shape


@dataclass(frozen=True)
class BlockSpec:
    """A kind of replacement block with its settings. ``label`` is what people read."""

    label: str
    kind: str
    settings: Block

    @classmethod
    def parse(cls, data: Any) -> BlockSpec:
        """From ``ghost``, ``{ghost: {ratio: 4}}`` or ``{kind: ghost, ratio: 4}``.

        Raises:
            ConfigError: no such kind, or settings it does not have.
        """
        # Every kind of block, which this lists, is a Block and imports this module.

        if isinstance(data, BlockSpec):
            return data
        kind, settings = resolve(data)
        return cls(_label(kind, settings), kind, settings)

    def plain(self) -> dict[str, Any]:
        """The flat form, every setting stated; :meth:`parse` reads it back."""
        return {"kind": self.kind, **self.settings.plain()}

    def identity(self) -> dict[str, Any]:
        """What decides the block: the plain form and the kind's version."""
        return {**self.plain(), "version": self.settings.version}

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        """A replacement for ``span``, as :meth:`Block.build` makes it."""
        return self.settings.build(span, inputs, outputs)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda spec: spec.plain()
            ),
        )


def _label(kind: str, settings: Block) -> str:
    """The kind and what sets it apart, without dots: they separate the steps of a path."""
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    return "-".join([kind, *(f"{k}{v}" for k, v in changed.items())]).replace(".", "_")
