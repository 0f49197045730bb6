"""Which stages run, where, and only once.

The same from Python as from the command line::

    from search import launch, load_experiment

    experiment = load_experiment("experiments/quickstart.yaml", {"run.trials": 8})
    launched = launch(experiment, inline=True)
    print(launched.folder.path / "best.yaml")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.assembly import rebuild
    from search.experiment import Experiment
    from search.formats.safetensors import read_network
    from search.launched import Launched, SearchFailed
    from search.launching import launch, resume
    from search.library.store import Library
    from search.loading import load_experiment
    from search.make import make_all
    from search.outcome import Outcome
    from search.planning import plan
    from search.reusing import again
    from search.run_result import read_outcome

__all__ = [
    "Experiment",
    "Launched",
    "Library",
    "Outcome",
    "SearchFailed",
    "again",
    "launch",
    "load_experiment",
    "make_all",
    "plan",
    "read_network",
    "read_outcome",
    "rebuild",
    "resume",
]

_HOMES = {
    "Experiment": "experiment",
    "Launched": "launched",
    "Library": "library.store",
    "Outcome": "outcome",
    "SearchFailed": "launched",
    "again": "reusing",
    "launch": "launching",
    "load_experiment": "loading",
    "make_all": "make",
    "plan": "planning",
    "read_network": "formats.safetensors",
    "read_outcome": "run_result",
    "rebuild": "assembly",
    "resume": "launching",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the small modules need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(importlib.import_module(f"search.{_HOMES[name]}"), name)
