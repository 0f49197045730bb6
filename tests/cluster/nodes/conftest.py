"""Several nodes on one machine: Ray's own simulation, an MLflow server, and what they see."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from stillhouse.search.monitoring.mlflow.locations import (
    SERVER_ENVIRONMENT,
    resolve_uri,
    ui_command,
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def comes_true(seconds, condition):
    """Whether ``condition`` comes true in that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def within():
    """Waits so many seconds at most for a condition."""
    return comes_true


@pytest.fixture
def free_port():
    """Finds one."""
    return find_port


@pytest.fixture(scope="session")
def tracking(tmp_path_factory):
    """The address of an MLflow server, as searches over several nodes want one."""
    folder, port = tmp_path_factory.mktemp("mlflow"), find_port()
    with (folder / "server.log").open("w") as output:
        process = subprocess.Popen(
            ui_command(resolve_uri(None, folder), port=port),
            stdout=output,
            stderr=output,
            env={**os.environ, **SERVER_ENVIRONMENT},
            cwd=folder,
            start_new_session=True,
        )

    def answers():
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return True
        assert process.poll() is None, (folder / "server.log").read_text()
        return False

    try:
        assert comes_true(240, answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def family():
    """All that descends from a process, itself included."""
    return descendants


def descendants(process):
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = (place / "stat").read_text().rpartition(")")[2].split()
            parents[int(place.name)] = int(stat[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
