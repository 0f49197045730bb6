"""Every benchmark runs at a toy size, and says what it found in its last line."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
WITH_RAY = {"overhead", "scale", "second_search", "shared_stages"}
SLOW = WITH_RAY
"""Half a minute and more even so."""


def marked(name):
    marks = [pytest.mark.ray] * (name in WITH_RAY) + [pytest.mark.slow] * (name in SLOW)
    return pytest.param(name, marks=marks)


def test_there_are_benchmarks_and_those_with_ray_are_among_them():
    assert set(NAMES) > WITH_RAY


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_runs_through_and_prints_its_ratio(name, tmp_path):
    """A toy run has no target: whatever is not 0 is a crash, or a benchmark without ``--toy``."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--toy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    told = re.fullmatch(rf"{name} ratio=(\d+\.\d+) target=\d+(\.\d+)?", last)
    assert told, done.stdout + done.stderr
    assert float(told[1]) > 0


@pytest.fixture
def shared():
    spec = importlib.util.spec_from_file_location("_outcome", FOLDER / "_outcome.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("ratio", "well", "toy", "status"),
    [(2.0, True, False, 0), (1.9, True, False, 1), (3.0, False, False, 1), (0.1, False, True, 0)],
)
def test_only_a_full_run_can_miss_its_target(shared, capsys, ratio, well, toy, status):
    args = argparse.Namespace(toy=toy)
    assert shared.outcome("planner", ratio, 2.0, args, well=well) == status
    assert capsys.readouterr().out == f"planner ratio={ratio:.2f} target=2\n"


def test_a_toy_run_has_its_own_defaults_and_keeps_what_is_said(shared, monkeypatch):
    def given(*said):
        parser = argparse.ArgumentParser()
        parser.add_argument("--trials", type=int, default=100)
        parser.add_argument("--seeds", type=int, default=5)
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *said])
        found = shared.arguments(parser, trials=2, seeds=1)
        return found.trials, found.seeds

    assert given() == (100, 5)
    assert given("--toy") == (2, 1)
    assert given("--toy", "--trials", "3") == (3, 1)
