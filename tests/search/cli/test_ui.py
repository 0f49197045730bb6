"""``stillhouse ui``: a port that is taken, nothing to show, and no server left behind."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from stillhouse.search.monitoring.mlflow import prepare_store
from stillhouse.search.monitoring.mlflow.locations import resolve_uri

COMMAND = (sys.executable, "-m", "stillhouse.search.cli", "ui")
ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    assert prepare_store(resolve_uri(None, folder), "tiny") == ""
    return folder / "mlflow.db"


def ui(folder, *words):
    return subprocess.run(
        [*COMMAND, *words], cwd=folder, capture_output=True, text=True, timeout=300
    )


@contextlib.contextmanager
def listening():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def wait_for(condition, seconds=240):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.1)


def test_a_port_in_use_is_named_with_the_way_to_another(database, tmp_path):
    shutil.copy(database, tmp_path)
    with listening() as port:
        done = ui(tmp_path, "--port", str(port))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"port {port} of 127.0.0.1: Address already in use" in line
    assert "--port N" in line
    assert "open" not in done.stdout


def test_an_empty_folder_stays_empty(tmp_path):
    done = ui(tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "there is nothing to show" in line
    assert "stillhouse launch FILE" in line
    assert "--tracking URI" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    done = ui(tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "not a database" in line


SERVING = """
import subprocess, sys
from pathlib import Path
from stillhouse.search.monitoring.mlflow.server import serve_ui
child = "import socket, sys, time; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1])));"
child += "s.listen(); time.sleep(600)"
parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
port = sys.argv[1]
command = [sys.executable, "-c", parent, child, port]
print(serve_ui(command, {}, "127.0.0.1", int(port), lambda: print("ready", flush=True)))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_server_and_its_children(number):
    port = free_port()
    serving = subprocess.Popen(
        [sys.executable, "-c", SERVING, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert serving.stdout.readline() == "ready\n"
    serving.send_signal(number)
    rest, _ = serving.communicate(timeout=60)
    assert rest.startswith(f"({int(number)}, ")
    assert not listens(port)


def test_a_server_that_ends_by_itself_is_told():
    code = "from stillhouse.search.monitoring.mlflow.server import serve_ui; import sys\n"
    code += (
        "print(serve_ui([sys.executable, '-c', 'raise SystemExit(3)'], {}, '127.0.0.1', 1, print))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "(0, 3)\n"


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.slow) for n in ENDING])
def test_mlflows_own_server_ends_with_it(database, tmp_path, number):
    shutil.copy(database, tmp_path)
    port = free_port()
    with (tmp_path / "ui.log").open("w") as log:
        serving = subprocess.Popen(
            [*COMMAND, "--port", str(port)], cwd=tmp_path, stdout=log, stderr=log
        )
    wait_for(lambda: "open http" in (tmp_path / "ui.log").read_text())
    group = children(serving.pid)
    assert group
    serving.send_signal(number)
    status = serving.wait(60)
    assert status == (0 if number == signal.SIGINT else 128 + number)
    assert not listens(port)
    assert not any(alive(pid) for pid in group)


def children(pid):
    """Process ids below one, as ``ps`` tells them."""
    told = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in told.stdout.splitlines()[1:]]
    own = [child for child, parent in pairs if parent == pid]
    return own + [below for child in own for below in children(child)]


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
