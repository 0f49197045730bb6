"""Where the program begins: which words have Ray started ahead, and what else is told."""

import subprocess
import sys

import pytest

from search.cli.start import wants_ray


@pytest.mark.parametrize(
    "words",
    [
        ("launch", "tiny.yaml"),
        ("launch", "tiny.yaml", "--set", "run.trials=2"),
        ("resume", "tiny"),
        ("extend", "tiny", "--trials", "3"),
        ("reuse", "tiny-2"),
    ],
)
def test_a_search_of_its_own_starts_ray_ahead(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").touch()
    assert wants_ray(words)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("launch",),
        ("launch", "--help"),
        ("launch", "missing.yaml"),
        ("launch", "tiny.yaml", "--inline"),
        ("launch", "tiny.yaml", "--address", "auto"),
        ("launch", "tiny.yaml", "--address=10.0.0.1:6379"),
        ("check", "launch"),
        ("plan", "tiny.yaml"),
    ],
)
def test_nothing_else_does(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").touch()
    assert not wants_ray(words)


def test_what_decides_is_light():
    """Else nothing would be won: torch is imported while Ray starts."""
    code = "import sys, search.cli.start, search.cluster; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.ray
def test_a_mistake_is_told_though_ray_was_started(tmp_path):
    (tmp_path / "wrong.yaml").write_text("name: wrong\n", encoding="utf-8")
    command = [sys.executable, "-c", "from search.cli import main; main()"]
    done = subprocess.run(
        [*command, "launch", "wrong.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "wrong.yaml" in done.stderr
    assert done.stderr.startswith("error: ")


def test_a_search_starts_without_what_only_plans_and_pictures_need():
    """Seconds in the driver and in every worker."""
    code = "import sys, search.cli.app, search.trial, search.stages.assemble; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "scipy.optimize", "scipy.stats", "mlflow"} & set(done.stdout.split())
