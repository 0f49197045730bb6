"""A group of commands that imports the module of a command only when the command is called.

The modules load torch, Ray or MLflow, which takes seconds. ``--help`` needs only names and help
lines.
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
    """The module of a command and its help line.

    The module has a function with the command's name, or a group ``app``.
    """

    module: str
    help: str


class LazyGroup(TyperGroup):
    """Lists commands without their modules; imports the module of the called one."""

    homes: ClassVar[Mapping[str, CommandHome]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=home.help) for name, home in self.homes.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the called command first, so that its arguments and options are known."""
        if args and args[0] in self.homes:
            self.commands[args[0]] = self.load_command(args[0])
        return super().resolve_command(ctx, args)

    def load_command(self, name: str) -> Any:
        """Import the module of a command; returns the command."""
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
