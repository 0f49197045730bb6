"""Search for the best way to distil a large network into a small one.

A search from Python::

    from stillhouse import launch, load_experiment

    experiment = load_experiment("experiments/quickstart.yaml", {"run.trials": 8})
    launched = launch(experiment, inline=True)
    print(launched.folder.path / "best.yaml")
"""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillhouse.search.artifacts.store import Library
    from stillhouse.search.assembly.network import load_network
    from stillhouse.search.driver.launch import launch, resume
    from stillhouse.search.driver.launched import LaunchResult, SearchFailed
    from stillhouse.search.driver.plan import plan_search
    from stillhouse.search.driver.reuse import repeat_winner
    from stillhouse.search.execution.builder import build_stages
    from stillhouse.search.experiment.experiment import Experiment
    from stillhouse.search.experiment.loading import load_experiment
    from stillhouse.search.export.formats.safetensors import read_network
    from stillhouse.search.results.outcome import Outcome
    from stillhouse.search.runs.result import read_outcome

__all__ = [
    "Experiment",
    "LaunchResult",
    "Library",
    "Outcome",
    "SearchFailed",
    "__version__",
    "build_stages",
    "launch",
    "load_experiment",
    "load_network",
    "plan_search",
    "read_network",
    "read_outcome",
    "repeat_winner",
    "resume",
]

_MODULES = {
    "Experiment": "experiment.experiment",
    "LaunchResult": "driver.launched",
    "Library": "artifacts.store",
    "Outcome": "results.outcome",
    "SearchFailed": "driver.launched",
    "repeat_winner": "driver.reuse",
    "launch": "driver.launch",
    "load_experiment": "experiment.loading",
    "build_stages": "execution.builder",
    "plan_search": "driver.plan",
    "read_network": "export.formats.safetensors",
    "read_outcome": "runs.result",
    "load_network": "assembly.network",
    "resume": "driver.launch",
}

_HERE = Path(__file__).parent
if (_HERE / "search").is_symlink():
    # A checkout: modules load from the folders that people edit, so that tracebacks and
    # breakpoints name these folders. Tools such as mypy and wheel builders follow the links.
    __path__ = [str(_HERE.parent)]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import stillhouse` stays fast."""
    if name == "__version__":
        return metadata.version("stillhouse")
    if name not in _MODULES:
        raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
    return getattr(importlib.import_module(f"stillhouse.search.{_MODULES[name]}"), name)
