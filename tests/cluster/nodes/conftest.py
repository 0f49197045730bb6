"""Several nodes on one machine: Ray's own simulation, an MLflow server, and what they see."""

import contextlib
import os
import signal
import subprocess
import urllib.error
import urllib.request

import pytest
import torch

from stillhouse.search.monitoring.mlflow.locations import (
    SERVER_ENVIRONMENT,
    resolve_uri,
    ui_command,
)
from tests.support.ports import free_port
from tests.support.waiting import within


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tracking(tmp_path_factory):
    """The address of an MLflow server, as searches over several nodes want one."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
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
        assert within(240, answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
