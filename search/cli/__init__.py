"""The command line: ``stillhouse COMMAND``."""

from search.cli.start import main

__all__ = ["main"]
