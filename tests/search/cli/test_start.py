"""Where the program begins: which words have Ray started ahead, and what else is told."""

import subprocess
import sys

import pytest
import ray

from stillhouse.search.cli import start
from stillhouse.search.cli.start import starts_ray
from stillhouse.search.cluster import connection
from stillhouse.spaces.config.problems import ConfigError


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
    assert starts_ray(words)


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
    assert not starts_ray(words)


def test_what_decides_is_light():
    """Else nothing would be won: torch is imported while Ray starts."""
    code = (
        "import sys, stillhouse.search.cli.start, stillhouse.search.cluster.connection; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


SLOW = "The current node timed out during startup. This could happen because some of the raylet"


def test_a_ray_that_does_not_start_is_told_in_one_line(monkeypatch):
    def init(**_):
        raise Exception(SLOW)  # Ray's own, of no kind

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(connection, "ensure_token", lambda: None)
    with pytest.raises(ConfigError) as caught:
        connection.connect(None)
    assert str(caught.value) == (
        f"Ray did not start on this machine: {SLOW}; its logs are in "
        "/tmp/ray/session_latest/logs; try again when the machine is less busy and has memory "
        "free, or run without Ray: --inline"
    )


def test_a_start_ahead_that_fails_is_left_to_the_search(monkeypatch):
    """The search tries again, and knows how to tell what is wrong."""
    tried = []

    def connect(address):
        tried.append(address)
        raise ConfigError("Ray did not start on this machine")

    monkeypatch.setattr(connection, "connect", connect)
    monkeypatch.setattr(start, "_import_modules", tried.extend)
    start._start_ray()
    assert None in tried
    assert "stillhouse.search.cli.runs" in tried


@pytest.mark.ray
def test_a_mistake_is_told_though_ray_was_started(tmp_path):
    (tmp_path / "wrong.yaml").write_text("name: wrong\n", encoding="utf-8")
    command = [sys.executable, "-c", "from stillhouse.search.cli import main; main()"]
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
    modules = ("cli.runs", "tuning.trial", "stages.assemble")
    code = (
        f"import sys, {', '.join(f'stillhouse.search.{m}' for m in modules)}; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "scipy.optimize", "scipy.stats", "mlflow"} & set(done.stdout.split())
