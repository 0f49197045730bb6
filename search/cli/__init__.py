"""The command line: ``stillhouse COMMAND``."""

from search.cli.app import main

__all__ = ["main"]
