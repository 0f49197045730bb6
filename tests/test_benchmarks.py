"""The benchmarks run, and say what they found in their last line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "architectures": ("--distilled", "1", "--epochs", "1"),
    "distilling_memory": ("--steps", "8"),
    "methods_step": ("--only", "attention", "--rounds", "1", "--steps", "1"),
    "neighbourhoods": ("--candidates", "2", "--steps", "1", "--rounds", "1"),
    "overhead": ("--trials", "4"),
    "planner": ("--graphs", "1", "--cuts", "6"),
    "scale": ("--trials", "4", "--stages", "4", "--artifacts", "4"),
    "second_search": ("--rounds", "1"),
    "shared_stages": ("--trials", "2"),
    "training_step": ("--rounds", "1", "--steps", "1"),
    "warm_start": ("--trials", "2", "--seeds", "1"),
}


def test_every_benchmark_is_tried():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SMALL)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", SMALL)
def test_runs(name, tmp_path):
    """Small: whether it reaches its target is another matter; 1 says that it did not."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *SMALL[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    last = done.stdout.splitlines()[-1]
    told = re.fullmatch(r"\w+ ratio=(\d+\.\d+) target=\d+(\.\d+)?", last)
    assert told, done.stdout + done.stderr
    assert float(told[1]) > 0
