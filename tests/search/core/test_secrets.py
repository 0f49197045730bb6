"""A password in an address opens the place, and is nowhere to be found afterwards."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import mlflow.artifacts
import pytest
import yaml
from mlflow import MlflowClient

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@pytest.fixture
def addresses(postgres_server, password, monkeypatch):
    """Of a study and of MLflow's tracking, with the password in both."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    secret = quote(password, safe="")
    return [
        postgres_server.database().replace("stillhouse@", f"stillhouse:{secret}@") for _ in range(2)
    ]


def stillhouse(folder, *words, **environment):
    """The command as a user types it; what it says, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-c", "from stillhouse.search.cli import main; main()", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STILLHOUSE_RUNS": str(folder / "runs")}
        | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    return done.stdout + done.stderr, done.returncode


def holding(secrets, folder):
    """The files below a folder in which one of them stands."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if any(s.encode() in file.read_bytes() for s in secrets)]


def test_a_search_with_passwords_in_its_addresses(addresses, password, tiny, tmp_path, monkeypatch):
    study, tracking = addresses
    secrets = [password, quote(password, safe="")]
    tiny["run"] |= {"trials": 2, "repeats": {"top": 1, "seeds": 2}}
    tiny["library"] = str(tmp_path / "work" / "library")
    folder = tmp_path / "work"
    folder.mkdir()
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**tiny, "study": study, "tracking": tracking}))
    said, status = stillhouse(folder, "launch", str(file), "--inline")
    assert status == 0, said
    assert "is not kept with the run; for a resume, set PGPASSWORD" in said
    everything = said
    known = {"PGPASSWORD": password}
    for words in (
        ("best", "tiny", "--json"),
        ("report", "tiny", "--json"),
        ("extend", "tiny", "--trials", "1", "--inline", "--json"),
        ("check", str(file), "--json"),
        ("doctor", "--tracking", tracking, "--library", tiny["library"], "--json"),
    ):
        said, status = stillhouse(folder, *words, **known)
        assert status == 0, said
        everything += said
    # What is not kept is asked for, in one line.
    said, status = stillhouse(folder, "best", "tiny")
    assert status == 2
    assert said.strip().endswith("set PGPASSWORD, or add a line to ~/.pgpass")
    everything += said
    # With the wrong one, and at the wrong port.
    good = quote(password, safe="")
    wrong = {"study": study.replace(good, "Falsch1234"), "tracking": tracking}
    port = re.search(r":(\d+)/", study).group(1)
    away = {"study": study.replace(f":{port}/", ":9/"), "tracking": tracking}
    elsewhere = {"tracking": tracking.replace(f":{port}/", ":9/"), "study": None}
    for changed, code in ((wrong, 2), (away, 2), (elsewhere, 0)):
        file.write_text(yaml.safe_dump({**tiny, **changed}))
        said, status = stillhouse(folder, "launch", str(file), "--inline")
        assert status == code, said
        assert "Traceback" not in said
        everything += said
    assert "Falsch1234" not in everything
    assert not [secret for secret in secrets if secret in everything]
    assert holding([*secrets, "Falsch1234"], folder) == []

    monkeypatch.setenv("PGPASSWORD", password)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    client = MlflowClient(tracking)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) > 5
    told = repr([(run.data.params, run.data.tags, run.info) for run in runs])
    for index, run in enumerate(runs):
        if client.list_artifacts(run.info.run_id):
            into = tmp_path / "artifacts" / str(index)
            into.mkdir(parents=True)
            mlflow.artifacts.download_artifacts(
                run_id=run.info.run_id, dst_path=str(into), tracking_uri=tracking
            )
    assert not [secret for secret in secrets if secret in told]
    assert list(Path(tmp_path / "artifacts").rglob("experiment.yaml"))
    assert holding(secrets, tmp_path / "artifacts") == []
