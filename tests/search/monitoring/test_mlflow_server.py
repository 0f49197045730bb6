"""A real MLflow server that is down, comes up, dies and comes back: nothing is lost or doubled."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests
import torch
from torch import nn

from stillhouse.search.monitoring.events import (
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
)
from stillhouse.search.monitoring.mlflow import tracker as tracker_module
from stillhouse.search.monitoring.mlflow.client import runs_url
from stillhouse.search.monitoring.mlflow.locations import (
    resolve_uri,
    server_environment,
    ui_command,
)
from stillhouse.search.monitoring.mlflow.tracker import Tracker, send_pending
from stillhouse.spaces.modules.network import Network

KEY = "a" * 64


@contextlib.contextmanager
def server(folder, port, kept=None):
    """``mlflow server`` as the command line starts it, killed with all its children."""
    uri = resolve_uri(kept, folder)
    command = ui_command(uri, port=port)
    with (folder / "server.log").open("a") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **server_environment(uri)},
            cwd=folder,
            start_new_session=True,
        )
    try:
        wait_for(lambda: answers(port), process)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def wait_for(condition, process=None, seconds=120):
    start = time.monotonic()
    while not condition():
        assert process is None or process.poll() is None, "the server ended"
        assert time.monotonic() - start < seconds
        time.sleep(0.05)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def kept(request, tmp_path):
    """Where the server keeps its runs."""
    if request.param == "sqlite":
        return resolve_uri(None, tmp_path)
    return request.getfixturevalue("postgres").database()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(tracker_module, "_MAX_PAUSE", 0.2)


def trial(tracker, number, epochs):
    tracker(TrialStarted(number, {"student.lr": number / 10}, {"student": KEY}, {"flops": 1e6}))
    for epoch in epochs:
        tracker(TrialReported(number, epoch, {"val_accuracy": epoch / 10}))


def check(uri, trials):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(found) == {"tiny", *(f"trial {number}" for number in trials)}
    assert len(client.search_runs([experiment])) == len(found)
    for number, epochs in trials.items():
        run = found[f"trial {number}"]
        history = client.get_metric_history(run.info.run_id, "val_accuracy")
        assert [(p.step, p.value) for p in history] == [(e, e / 10) for e in epochs]
        assert run.data.params == {"lr": str(number / 10)}
        assert run.data.tags["mlflow.parentRunId"] == found["tiny"].info.run_id
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    return client, found


def test_down_at_the_start_and_killed_in_the_middle(tmp_path, port, kept):
    uri = f"http://127.0.0.1:{port}"
    tracker = Tracker(uri, "tiny", tmp_path / "search", {})
    tracker(SearchStarted("tiny", {"name": "tiny", "search": {"student.lr": "declared"}}, False))
    trial(tracker, 0, [1, 2])
    wait_for(lambda: tracker.trouble)
    assert "refused" in tracker.trouble
    assert tracker.num_pending == 7

    with server(tmp_path, port, kept):
        wait_for(lambda: tracker.num_pending == 0 and tracker.trouble == "")
        trial(tracker, 1, [1])
        wait_for(lambda: tracker.num_pending == 0)

    tracker(TrialReported(0, 3, {"val_accuracy": 0.3}))
    tracker(TrialEnded(0, "finished"))
    trial(tracker, 2, [1, 2])
    wait_for(lambda: tracker.trouble)

    with server(tmp_path, port, kept):
        tracker(TrialReported(1, 2, {"val_accuracy": 0.2}))
        tracker(TrialEnded(1, "finished"))
        tracker(TrialEnded(2, "finished"))
        tracker(SearchEnded("finished"))
        assert tracker.close(60) == 0
        check(uri, {0: [1, 2, 3], 1: [1, 2], 2: [1, 2]})
        assert runs_url(uri, "tiny").endswith("/runs")


@pytest.mark.slow
def test_down_at_the_end_and_sent_by_a_later_command(tmp_path, port, kept):
    uri = f"http://127.0.0.1:{port}"
    report = tmp_path / "report.html"
    report.write_text("<html>")
    network = Network({"head": nn.Sequential(nn.Flatten(), nn.Linear(12, 2))})
    with server(tmp_path, port, kept):
        tracker = Tracker(uri, "tiny", tmp_path / "search", {})
        tracker(SearchStarted("tiny", {"name": "tiny", "search": {"student.lr": 1}}, False))
        trial(tracker, 0, [1])
        wait_for(lambda: tracker.num_pending == 0)
    tracker(TrialEnded(0, "finished"))
    tracker(StageChanged(KEY, "teacher", "reused"))
    tracker(SearchEnded("finished"))
    tracker.log_winner(network, torch.rand(2, 3, 2, 2), trial=0, register="tiny")
    left = tracker.close(30)
    assert left == 7
    assert send_pending(tmp_path / "search") == left
    with server(tmp_path, port, kept):
        assert send_pending(tmp_path / "search") == 0
        assert send_pending(tmp_path / "search") == 0
        client, found = check(uri, {0: [1]})
        assert found["tiny"].data.metrics["stages.reused"] == 1
        (output,) = client.get_run(found["trial 0"].info.run_id).outputs.model_outputs
        version = client.get_model_version_by_alias("tiny", "best")
        assert client.get_logged_model(output.model_id).artifact_location == version.source
        files = {file.path for file in client.list_logged_model_artifacts(output.model_id)}
        assert {"MLmodel", "data", "requirements.txt"} <= files


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="lists sockets as Linux does")
def test_pages_are_served_to_this_machine_and_under_its_own_name(tmp_path, port):
    """A page elsewhere that calls 127.0.0.1 by a name of its own gets nothing (DNS rebinding)."""
    with server(tmp_path, port):
        own = requests.get(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
        )
        assert own.status_code == 200
        foreign = requests.get(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1",
            headers={"Host": "evil.example"},
        )
        assert foreign.status_code == 403
        changing = requests.post(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/create",
            json={"name": "x"},
            headers={"Origin": "http://evil.example"},
        )
        assert changing.status_code == 403
        assert listeners(port) == {"0100007F"}  # 127.0.0.1, and nothing else


def listeners(port):
    """The addresses of all sockets that listen on ``port``, as Linux lists them, hexadecimal."""
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    fields = [line.split() for table in tables for line in table]
    ends = [(*entry[1].split(":"), entry[3]) for entry in fields]
    return {address for address, told, state in ends if state == "0A" and int(told, 16) == port}
