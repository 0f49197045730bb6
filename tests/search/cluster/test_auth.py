"""Authentication of real Rays: a process without the token gets one line and no access."""

import http.server
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stillhouse.search.cluster.auth import ensure_token
from stillhouse.search.cluster.dashboard import ClusterDashboard
from stillhouse.spaces.config.problems import ConfigError
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
HOST = """
import json, sys
import ray
import psutil  # Ray brings it
from stillhouse.search.cluster.connection import connect

connect(None)
seen = ray.get(ray.remote(lambda: ray.util.get_node_ip_address()).remote())
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = [
    c.laddr.ip
    for p in processes
    for c in p.net_connections("inet")
    if c.status == psutil.CONN_LISTEN
]
gcs = ray.get_runtime_context().gcs_address
print(json.dumps({"gcs": gcs, "node": seen, "listening": listening}), flush=True)
sys.stdin.read()
"""
LAUNCH = "from stillhouse.search.cli.app import main; main()"
RUNS = """
import sys
import ray
from stillhouse.search.cluster.connection import connect

connect(sys.argv[1])
print("ran", ray.get(ray.remote(lambda: 6 * 7).remote()))
"""
LOOKS = """
import os, sys
from stillhouse.search.cluster.dashboard import ClusterDashboard
from stillhouse.spaces.config.problems import ConfigError

try:
    ClusterDashboard(sys.argv[1])
except ConfigError as error:
    print(error)
del os.environ["RAY_AUTH_MODE"]
print(ClusterDashboard(sys.argv[1]).url)
"""
SLOW = [pytest.mark.slow, pytest.mark.ray]
FILE = """
name: tiny
data: {source: digits, limit: 60, validation: 0.2}
stages:
  student: {network: cnn2, objective: {cross_entropy: {}}, training: {epochs: 1}}
"""


def surroundings(home, **more):
    """The environment of a user with the given home."""
    home.mkdir(parents=True, exist_ok=True)
    told = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "STILLHOUSE_"))}
    return {**told, "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def python(code, *words, home, **more):
    """Run a program as that user."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env=surroundings(home, **more),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
    )


def refused(found):
    lines = found.stderr.strip().splitlines()
    assert found.returncode == 2, found.stderr
    assert len(lines) == 1, found.stderr
    assert "asks for its token: copy its ~/.ray/auth_token here" in lines[0]
    assert "Traceback" not in found.stdout + found.stderr


def stranger(address, home, **more):
    """A launch by a user without the token, or with a wrong one."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "tiny.yaml").write_text(FILE, encoding="utf-8")
    return python(LAUNCH, "launch", "tiny.yaml", "--address", address, home=home, **more)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A Ray that stillhouse has started: its home and its addresses."""
    import json

    home = tmp_path_factory.mktemp("host")
    process = subprocess.Popen(
        [sys.executable, "-c", HOST],
        env=surroundings(home),
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield home, json.loads(process.stdout.readline())
    process.communicate()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head as in cluster.yaml, on a free port: its home and its address."""
    home = tmp_path_factory.mktemp("head")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a1" * 32, encoding="utf-8")
    port = free_port(above=20_000)  # Ray keeps lower ones for workers
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}"),
        *("--dashboard-host=127.0.0.1", "--num-cpus=1", "--block", "--include-dashboard=false"),
        f"--temp-dir=/tmp/stillhouse-{os.getpid()}",  # a socket's path must be short
    ]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            env=surroundings(home, RAY_AUTH_MODE="token"),
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_for(lambda: "Ray runtime started" in (home / "log").read_text(), process)
    yield home, f"127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def wait_for(condition, process, seconds=180):
    start = time.monotonic()
    while not condition():
        assert process.poll() is None, "it ended"
        assert time.monotonic() - start < seconds
        time.sleep(0.2)


class TestLocalRun:
    pytestmark = SLOW

    def test_its_token_is_for_its_user_only(self, local):
        home, _ = local
        token = home / ".ray" / "auth_token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
        assert len(token.read_text()) == 64

    def test_another_process_without_the_token_is_refused(self, local, tmp_path):
        refused(stranger(local[1]["gcs"], tmp_path / "none"))

    def test_a_wrong_token_is_refused(self, local, tmp_path):
        refused(stranger(local[1]["gcs"], tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="b" * 64))


class TestCluster:
    pytestmark = SLOW

    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"RAY_AUTH_MODE": "token"},
            {"RAY_AUTH_MODE": "disabled"},
            {"RAY_AUTH_TOKEN": "b" * 64},
        ],
        ids=["nothing", "no token", "disabled", "wrong"],
    )
    def test_a_launch_without_its_token_is_one_line(self, cluster, tmp_path, more):
        refused(stranger(cluster[1], tmp_path, **more))

    def test_a_plain_ray_without_its_token_gets_nothing(self, cluster, tmp_path):
        code = "import sys, ray; ray.init(address=sys.argv[1]); print('in')"
        found = python(code, cluster[1], home=tmp_path)
        assert found.returncode
        assert "in" not in found.stdout.split()

    def test_the_token_in_its_place_is_enough(self, cluster):
        home, address = cluster
        found = python(RUNS, address, home=home)
        assert found.stdout.split() == ["ran", "42"], found.stderr
        assert "WARNING" not in found.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_a_user_may_do_without_tokens(tmp_path):
    code = (
        "from stillhouse.search.cluster.connection import connect; connect(None); "
        "import os; print(*os.environ)"
    )
    found = python(code, home=tmp_path, RAY_AUTH_MODE="disabled")
    assert found.returncode == 0, found.stderr
    assert not (tmp_path / ".ray" / "auth_token").exists()


class Doorkeeper(http.server.BaseHTTPRequestHandler):
    """A dashboard that answers the first request of a client with the token."""

    token = "a1" * 32

    def do_GET(self):
        given = self.headers.get("Authorization")
        welcome = given == f"Bearer {self.token}"
        self.send_response(200 if welcome else 403 if given else 401)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.60.0"}' if welcome else b"no")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    """The URL of a dashboard that requires its token."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Doorkeeper)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class TestDashboard:
    """Access from a machine that is no node."""

    def test_the_token_in_its_place_is_enough_unless_the_user_wants_none(self, url, tmp_path):
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(Doorkeeper.token, encoding="utf-8")
        found = python(LOOKS, url, home=tmp_path, RAY_AUTH_MODE="disabled")
        refused, admitted = found.stdout.splitlines()
        assert "asks for its token: copy its ~/.ray/auth_token here" in refused
        assert admitted == url
        assert "Traceback" not in found.stderr

    def test_one_that_never_answers_is_given_up(self, monkeypatch):
        monkeypatch.setattr("stillhouse.search.cluster.dashboard.HTTP_TIMEOUTS", (5.0, 0.2))
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(ConfigError, match=r"^--address: no Ray cluster at http.*timed out"),
        ):
            ClusterDashboard(f"http://127.0.0.1:{silent.getsockname()[1]}")


class TestToken:
    """The file that ``ensure_token`` creates."""

    @pytest.fixture
    def home(self, tmp_path, monkeypatch):
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("stillhouse.search.cluster.auth.set_token_mode", lambda: None)
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    def test_one_is_made_once_and_for_this_user_only(self, home):
        token = home / ".ray" / "auth_token"
        ensure_token()
        first = token.read_text()
        ensure_token()
        assert token.read_text() == first
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert list(token.parent.iterdir()) == [token]

    def test_one_that_all_may_read_is_closed_and_kept(self, home):
        token = home / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text("c" * 64)
        token.chmod(0o644)
        ensure_token()
        assert token.read_text() == "c" * 64
        assert stat.S_IMODE(token.stat().st_mode) == 0o600

    def test_an_empty_one_is_none(self, home):
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").touch()
        ensure_token()
        assert len((home / ".ray" / "auth_token").read_text()) == 64

    @pytest.mark.parametrize(
        "told",
        [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "y")],
    )
    def test_what_the_user_says_stays(self, home, monkeypatch, told):
        monkeypatch.setenv(*told)
        ensure_token()
        assert not (home / ".ray").exists()

    def test_a_home_that_holds_no_files_gets_a_token_for_this_run(self, home, monkeypatch):
        (home / ".ray").write_text("in the way")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is taken back afterwards
        ensure_token()
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
