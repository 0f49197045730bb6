"""A search submitted to a real cluster over its dashboard: it outlives who submitted it, and is
seen from a folder that knows nothing of it."""

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

from stillhouse.search.artifacts.store import Library
from tests.support.ports import free_ports
from tests.support.waiting import within

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROGRAM = [sys.executable, "-m", "stillhouse.search.cli"]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head with a dashboard and a token: its home, two addresses and its environment."""
    home = tmp_path_factory.mktemp("head")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    gcs, dashboard, *others = free_ports(7)
    names = (
        "ray-client-server-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
    )
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--num-cpus=2", "--object-store-memory=100000000", "--dashboard-host=127.0.0.1"),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir=/tmp/r{gcs}"),
        *(f"--{name}={port}" for name, port in zip(names, others, strict=True)),
    ]
    env = {
        **os.environ,
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "OMP_NUM_THREADS": "1",
        "RAY_memory_monitor_refresh_ms": "0",  # other work on this machine is not this one's
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
    }
    for name in ("RAY_ADDRESS", "STILLHOUSE_RUNS", "RAY_AUTH_TOKEN"):
        env.pop(name, None)
    with (home / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=env, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    try:
        assert within(180, lambda: "Ray runtime started" in (home / "head.log").read_text())
        yield home, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", env
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def call(head, tmp_path):
    """The command line on another machine: its own folder, its own home, the cluster's token."""
    home, _, _, env = head
    other = tmp_path / "laptop"
    other.mkdir()
    mine = {**env, "HOME": str(other), "RAY_AUTH_TOKEN_PATH": str(home / ".ray" / "auth_token")}

    def called(*words, status=0, **changes):
        done = subprocess.run(
            [*PROGRAM, *words],
            cwd=other,
            env={**mine, **changes},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    called.folder = other
    return called


def test_a_search_outlives_who_submitted_it(head, call, tiny):
    home, dashboard, gcs, _ = head
    told = {**tiny, "run": {**tiny["run"], "trials": 3}}
    (call.folder / "tiny.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    submitted = json.loads(call("launch", "tiny.yaml", "--address", gcs, "--submit", "--json"))
    assert submitted["job"].startswith("tiny-")
    assert submitted["dashboard"] == dashboard

    # Whoever submitted it has ended; what is known is known from elsewhere.
    def ended():
        seen = json.loads(call("status", "tiny", "--address", dashboard, "--json"))
        return seen if seen["state"] != "running" else None

    seen = within(400, ended)
    assert (seen["state"], seen["name"]) == ("finished", "tiny-1")
    assert seen["trials"]["ended"] == {"finished": 3}
    assert seen["driver"]["folder"] == str(home / "stillhouse-runs" / "tiny-1")
    (node,) = seen["nodes"]
    assert (node["alive"], node["cpus"]) == (True, 2.0)
    assert not (call.folder / "stillhouse-runs").exists()

    library = Library(told["library"])
    assert sum(record.name == "student" for record in library.records()) == 3
    assert [need.run.name for need in library.all_references().values()] == ["tiny-1"]
    assert (home / "mlflow.db").exists()
    from_library = json.loads(call("status", "tiny", "--library", told["library"], "--json"))
    assert from_library["trials"] == seen["trials"]
    assert "tiny-1: finished" in call("status", "tiny-1", "--address", gcs)

    again = json.loads(
        call(*("extend", "tiny-1", "--trials", "1", "--address", dashboard), "--submit", "--json")
    )
    assert again["run"] in ("tiny-1", "")  # a driver that is fast has ended before it was asked

    def ended_trials():
        status = json.loads(call("status", "tiny", "--address", dashboard, "--json"))
        return status["trials"]["ended"]

    assert within(300, lambda: ended_trials() == {"finished": 4})


def test_every_node_is_looked_at(head, call, tmp_path):
    _, _, gcs, _ = head
    (tmp_path / "lib").mkdir()
    rows = json.loads(
        call("doctor", "--address", gcs, "--library", str(tmp_path / "lib"), "--json")
    )
    assert all(row["good"] for row in rows)
    here, node = dict.fromkeys(row["node"] for row in rows)
    assert here == "here"
    found = {row["what"].partition(" ")[0]: row["found"] for row in rows if row["node"] == node}
    assert found["library"] == "works"
    assert found["tracking"] == "only the driver uses it"
    assert {"python", "torch", "ray", "stillhouse", "processors", "device", "free"} <= set(found)
    assert list((tmp_path / "lib").rglob("*.*")) == []


def test_what_is_wrong_is_told_in_a_line(head, call, tiny):
    _, dashboard, _, _ = head
    told = {**tiny, "library": "beside"}
    (call.folder / "tiny.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    launch = ("launch", "tiny.yaml", "--submit", "--address")
    assert "'beside' is a folder beside" in call(*launch, dashboard, status=2)
    (call.folder / "tiny.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    assert "no dashboard at http://127.0.0.1:9" in call(*launch, "http://127.0.0.1:9", status=2)
    said = call(*launch, dashboard, status=2, RAY_AUTH_TOKEN_PATH="", RAY_AUTH_MODE="disabled")
    assert "asks for its token" in said
    assert len(said.strip().splitlines()) == 1
    said = call("launch", "tiny.yaml", "--address", dashboard, status=2)
    assert "add --submit" in said
    assert "unknown run 'nobody'" in call("status", "nobody", "--address", dashboard, status=2)
