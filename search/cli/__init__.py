"""The command line: ``stillhouse COMMAND``."""

from stillhouse.search.cli.start import main

__all__ = ["main"]
