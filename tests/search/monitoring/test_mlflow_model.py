"""The winner as an MLflow model: logged, loaded again, equal; late if it must be."""

import json
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.search.monitoring.events import SearchStarted
from stillhouse.search.monitoring.mlflow.client import prepare_store
from stillhouse.search.monitoring.mlflow.locations import resolve_uri
from stillhouse.search.monitoring.mlflow.tracker import Tracker
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    blocks = {
        "stem": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    }
    made = Network(blocks, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    made(torch.rand(64, 3, 8, 8))  # batch-norm statistics that are not the initial ones
    return made


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    assert prepare_store(resolve_uri(None, folder), "other") == ""
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_database, tmp_path, monkeypatch):
    shutil.copy(empty_database, tmp_path)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    yield resolve_uri(None, tmp_path)
    assert list(cwd.iterdir()) == []


LOADER = """
import sys
import mlflow, numpy as np, torch
mlflow.set_tracking_uri(sys.argv[1])
images = np.load(sys.argv[3])
model = mlflow.pytorch.load_model(sys.argv[2])
with torch.no_grad():
    logits = [model(torch.from_numpy(images[:n])).numpy() for n in (1, 7)]
served = mlflow.pyfunc.load_model(sys.argv[2])
assert "stillhouse" not in sys.modules
np.savez(sys.argv[4], one=logits[0], seven=logits[1], served=served.predict(images))
"""


def test_the_winner_loads_elsewhere_and_says_the_same(uri, network, tmp_path):
    tracker = Tracker(uri, "tiny", tmp_path / "search", {})
    tracker(SearchStarted("tiny", {"name": "tiny"}, False))
    images = torch.rand(7, 3, 8, 8)
    network.train()
    tracker.log_winner(network, images, classes=["a", "b", "c", "d", "e"], register="tiny-student")
    assert network.training
    assert tracker.close(60) == 0, tracker.trouble
    assert list((tmp_path / "search/tracking/models").iterdir()) == []

    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (run,) = client.search_runs([experiment])
    (output,) = client.get_run(run.info.run_id).outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, str(model.status), model.source_run_id) == (
        "student",
        "READY",
        run.info.run_id,
    )
    best = client.get_model_version_by_alias("tiny-student", "best")
    assert (best.version, best.source) == (1, model.artifact_location)

    np.save(tmp_path / "images.npy", images.numpy())
    places = [str(tmp_path / "images.npy"), str(tmp_path / "logits.npz")]
    command = [sys.executable, "-c", LOADER, uri, "models:/tiny-student@best", *places]
    subprocess.run(command, check=True, cwd=tmp_path / "search")
    loaded = np.load(tmp_path / "logits.npz")
    with torch.no_grad():
        expected = network.eval()(images).logits.numpy()
    np.testing.assert_allclose(loaded["one"], expected[:1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loaded["seven"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loaded["served"], expected, rtol=1e-5, atol=1e-6)

    described = model.artifact_location.removeprefix("file://")
    with open(f"{described}/requirements.txt") as lines:
        names = [line.partition("==")[0].strip() for line in lines]
    assert sorted(names) == ["mlflow", "numpy", "torch"]


def test_logged_when_the_server_is_back_and_only_once(uri, network, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
    tracker = Tracker(nowhere, "tiny", tmp_path / "search", {})
    tracker(SearchStarted("tiny", {"name": "tiny"}, False))
    tracker.log_winner(network, torch.rand(2, 3, 8, 8), trial=3)
    assert tracker.close(30) == 4
    own = tmp_path / "search" / "tracking"
    (saved,) = (own / "models").iterdir()
    assert (saved / "data" / "model.pt2").exists()
    operations = (own / "operations.jsonl").read_text()
    shutil.copytree(saved, tmp_path / "copy")

    for _ in range(2):
        tracker = Tracker(uri, "tiny", tmp_path / "search", {})
        assert tracker.close(60) == 0, tracker.trouble
        assert not saved.exists()
        # the answer was lost, so everything is sent again
        (own / "operations.jsonl").write_text(operations)
        shutil.copytree(tmp_path / "copy", saved)
    assert not (own / "refused.jsonl").exists()

    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (model,) = client.search_logged_models([experiment])
    named = {run.info.run_id: run.info.run_name for run in client.search_runs([experiment])}
    assert named[model.source_run_id] == "trial-3"
    assert json.loads(operations.splitlines()[-1])["folder"] == f"models/{saved.name}"


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b"])
def test_a_name_the_registry_refuses_is_refused_at_once(name, uri, network, tmp_path):
    tracker = Tracker(uri, "tiny", tmp_path / "search", {})
    with pytest.raises(ConfigError, match=r"run.register_as: .*without / and :"):
        tracker.log_winner(network, torch.rand(2, 3, 8, 8), register=name)
    assert tracker.close(60) == 0
