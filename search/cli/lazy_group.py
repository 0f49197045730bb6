"""A group of commands whose modules are imported when a command is called, not when it is listed.

Those modules load torch, Ray or MLflow, which takes seconds; ``--help`` needs no more than names
and help lines.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class CommandHome(NamedTuple):
    """Where a command is defined: a function of its name, or a group ``app``; and its help line."""

    module: str
    help: str


class LazyGroup(TyperGroup):
    """Lists its commands by their help lines; imports the module of the one that is called."""

    homes: ClassVar[Mapping[str, CommandHome]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=home.help) for name, home in self.homes.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As its base, with the arguments and options of the command that ``args`` begin with."""
        if args and args[0] in self.homes:
            self.commands[args[0]] = self.load_command(args[0])
        return super().resolve_command(ctx, args)

    def load_command(self, name: str) -> Any:
        """The whole command; its module is imported."""
        with _paused_collection():
            module = importlib.import_module(self.homes[name].module)
        source = getattr(module, name, None)
        if source is None:
            return get_command(module.app)
        group = typer.Typer(add_completion=False)
        group.command(name)(source)
        return get_command(group)


@contextlib.contextmanager
def _paused_collection() -> Iterator[None]:
    """Pause garbage collection: imports leave no garbage, and it takes an eighth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
