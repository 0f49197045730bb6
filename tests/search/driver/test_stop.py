"""Ctrl-C and SIGTERM leave a search that resume continues; nothing finished is done again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from stillhouse.search.artifacts.store import Library
from stillhouse.search.driver.launch import resume

COMMAND = [sys.executable, "-c", "from stillhouse.search.cli import main; main()"]


def wait_for(text, file, process, seconds=180):
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if file.read_text(encoding="utf-8").count(text):
            return
        time.sleep(0.2)
    raise AssertionError(f"{text!r} never came:\n{file.read_text(encoding='utf-8')}")


def stop(how, when, tiny, folder, ctrl_c=signal.SIG_DFL):
    """Launch, and send a signal once the output says ``when``; ``ctrl_c``: what SIGINT does."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    output = folder / "output"
    with output.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*COMMAND, "launch", "tiny.yaml"],
            stdout=log,
            stderr=log,
            env=os.environ.copy(),
            preexec_fn=lambda: signal.signal(signal.SIGINT, ctrl_c),
        )
        wait_for(when, output, process)
        process.send_signal(how)
        assert process.wait(timeout=60) == 130
    assert "go on with: stillhouse resume tiny-1" in output.read_text(encoding="utf-8")
    state = folder / "stillhouse-runs" / "tiny-1" / "state.json"
    assert json.loads(state.read_text(encoding="utf-8"))["state"] == "interrupted"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_search_that_waits_for_a_stage_stops_at_once(how, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny["stages"]["assistants"]["training"] = {"epochs": 100_000, "batch_size": 32}
    stop(how, "stage teacher made", tiny, tmp_path)


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_in_the_background_of_a_shell_stops_too(tiny, tmp_path, monkeypatch):
    """A shell has what it runs with ``&`` ignore Ctrl-C; that leaves SIGTERM."""
    monkeypatch.chdir(tmp_path)
    tiny["stages"]["assistants"]["training"] = {"epochs": 100_000, "batch_size": 32}
    stop(signal.SIGTERM, "stage teacher made", tiny, tmp_path, ctrl_c=signal.SIG_IGN)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_goes_on(how, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny["run"] = {"trials": 12, "sampler": "random", "repeats": {"top": 0}, "baselines": False}
    tiny["stages"]["student"]["training"] = {"epochs": 30, "batch_size": 32}
    stop(how, "[2/12]", tiny, tmp_path)

    made_before = {record.key: record.made_at for record in Library(tiny["library"]).records()}
    launched = resume("tiny-1", inline=True)
    assert launched.state == "finished"
    assert [trial.state for trial in launched.outcome.trials] == ["finished"] * 12
    after = {record.key: record.made_at for record in Library(tiny["library"]).records()}
    assert made_before.items() <= after.items()
