"""A search so small that every test can afford one."""

import copy
import urllib.request
import uuid

import pytest
import torch
from safetensors.torch import save_file

from stillhouse.search.artifacts.store import Library
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.network_spec import NetworkSpec
from tests.support.databases import PASSWORD, Postgres, postgres_programs

FAST = {"epochs": 2, "batch_size": 32, "lr": 0.05}
TAUGHT = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5, "temperature": 2.0}}
TINY = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 100},
    "stages": {
        "teacher": {"network": "cnn8", "objective": {"cross_entropy": {}}, "training": FAST},
        "assistants": {
            "do": "chain",
            "teacher": "teacher",
            "networks": ["cnn6"],
            "objective": TAUGHT,
            "training": FAST,
        },
        "student": {
            "network": {"cnn2": {"width": 0.25}},
            "teachers": ["assistants"],
            "objective": TAUGHT,
            "training": FAST,
        },
    },
    "search": {
        "assistants.networks": {"chain": {"of": ["cnn6", "cnn4"]}},
        "student.objective.soft_targets.weight": {"choice": [0.3, 0.9]},
        "student.training.lr": {"log_uniform": [0.01, 0.1]},
    },
    "goal": {"maximize": "student.val_accuracy", "subject_to": {"student.parameters": 1000}},
    "run": {"trials": 6, "sampler": "random", "repeats": {"top": 0}, "baselines": False},
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path):
    """The experiment's file as plain data, its library in the test's own folder."""
    return {**copy.deepcopy(TINY), "library": str(tmp_path / "library")}


@pytest.fixture
def load(tiny):
    """The experiment, with dotted path -> value laid over it first."""

    def loaded(changes=None, **top):
        return load_experiment({**tiny, **top}, changes)

    return loaded


@pytest.fixture
def published():
    """Writes a file of weights, as somebody may publish it."""

    def write(file, network, shape=(1, 8, 8), classes=10):
        state = NetworkSpec.parse(network).build(shape, classes).state_dict()
        save_file({name: t for name, t in state.items() if "." in name}, file)

    return write


@pytest.fixture
def library(tmp_path):
    return Library(str(tmp_path / "library"))


@pytest.fixture
def disk(tmp_path):
    """A library in the test's own folder."""
    return Library(str(tmp_path / "library"))


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3-compatible server that runs as long as the tests do."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL that runs as long as the tests do."""
    programs = postgres_programs()
    if not programs:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    server = Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres(postgres_server, monkeypatch):
    """The same, with the password in the environment, where it belongs."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return postgres_server


@pytest.fixture
def password():
    return PASSWORD


@pytest.fixture
def s3_keys(monkeypatch):
    """Keys in the environment, and nothing else of this machine's AWS; whose they are."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return "testing"


@pytest.fixture
def bucket(s3_server, s3_keys):
    """The URI of a library in a fresh bucket."""
    name = f"{s3_keys}-{uuid.uuid4().hex[:12]}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{name}", method="PUT")):
        pass
    return f"s3://{name}/some/library?endpoint_override={s3_server}"
