"""Students that leave: every format answers as the network did, or is not written."""

import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from stillhouse import launch, read_network
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.cli.app import app
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.experiment import to_yaml
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.export import format as formatting
from stillhouse.search.export.exporting import (
    LOGIT_TOLERANCE,
    QUANTISED_LOGIT_TOLERANCE,
    check_formats,
    export_network,
    with_earlier_files,
)
from stillhouse.search.export.formats import FORMATS
from stillhouse.search.export.formats.pt2 import Pt2
from stillhouse.search.monitoring.mlflow.model import save_classifier
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.quantise import QuantiseNetwork
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.compression.quantisation import quantised_layers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.network_spec import NetworkSpec

DATA = DataConfig.parse({"source": "digits", "limit": 100, "resize": 16})
NETWORKS = ("lenet5", "resnet8")


def _trained(network):
    work = TrainNetwork(
        network=NetworkSpec.parse(network),
        objective=Objective.parse({"cross_entropy": {}}),
        training=Training(epochs=1),
    )
    return Stage("student", work, DATA)


def made(library, network):
    """The artifact of a network that has learnt for an epoch."""
    stage = _trained(network)
    for _ in build_stages([stage], library):
        pass
    return library.open_artifact(stage.key)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    library = Library(str(tmp_path_factory.mktemp("library")))
    return {network: made(library, network) for network in NETWORKS}


@pytest.fixture(scope="module", params=["lenet5", pytest.param("resnet8", marks=pytest.mark.slow)])
def rounded(request, artifacts, tmp_path_factory):
    """A network in float and in int8: their artifacts."""
    library = Library(str(tmp_path_factory.mktemp("rounded")))
    whole = artifacts[request.param]
    stage = Stage("student/quantised", QuantiseNetwork(), DATA, (_trained(request.param),))
    for _ in build_stages([stage], library):
        pass
    return whole, library.open_artifact(stage.key)


@pytest.fixture(scope="module")
def images():
    return next(open_data(DATA).batches("test", batch_size=50, device="cpu")).images


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", FORMATS.names())
def test_a_file_answers_as_the_network_did_whatever_the_batch(
    name, network, artifacts, images, tmp_path
):
    departure = export_network(artifacts[network], DATA, [name], tmp_path, "student")
    (file,) = departure.files
    assert [path.name for path in tmp_path.iterdir()] == [f"student.{name}"]
    assert file.bytes == (tmp_path / f"student.{name}").stat().st_size
    assert file.difference <= LOGIT_TOLERANCE
    assert file.agreement == 1.0
    assert min(file.latency_ms, departure.network.latency_ms) > 0.0
    answers = FORMATS.load(name).read(tmp_path / f"student.{name}")
    own = load_network(artifacts[network])
    for count in (1, 7, 50):
        with torch.no_grad():
            said, told = answers(images[:count].contiguous()), own(images[:count], ()).logits
        torch.testing.assert_close(said, told, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS.names())
def test_what_the_card_says_runs(name, artifacts, images, tmp_path, monkeypatch):
    departure = export_network(artifacts["lenet5"], DATA, [name], tmp_path, "student")
    monkeypatch.chdir(tmp_path)
    scope = {"images": images.numpy()}
    code = departure.usage[name].replace("FILE", f"student.{name}")
    exec(compile(code, "card", "exec"), scope)
    own = load_network(artifacts["lenet5"])
    with torch.no_grad():
        told = own(images, ()).logits.numpy()
    np.testing.assert_allclose(np.asarray(scope["logits"].tolist()), told, rtol=1e-3, atol=1e-4)


def test_weights_come_back_bit_for_bit(artifacts, tmp_path):
    export_network(artifacts["resnet8"], DATA, ["safetensors"], tmp_path, "student")
    network = read_network(tmp_path / "student.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, artifacts["resnet8"].tensors[name]), name


@pytest.mark.parametrize("name", FORMATS.names())
def test_integers_leave_as_integers(name, rounded, images, tmp_path):
    """What adds up in another order may round a value the other way here and there."""
    (float_file,) = export_network(rounded[0], DATA, [name], tmp_path / "float", "student").files
    (file,) = export_network(rounded[1], DATA, [name], tmp_path / "int8", "student").files
    assert file.difference <= (
        LOGIT_TOLERANCE if name == "safetensors" else QUANTISED_LOGIT_TOLERANCE
    )
    if name != "pt2":  # whose description of the graph weighs more than so small a network
        assert file.bytes < float_file.bytes
    answers = FORMATS.load(name).read(tmp_path / "int8" / f"student.{name}")
    own = load_network(rounded[1])
    for count in (1, 50):
        with torch.no_grad():
            said, told = answers(images[:count].contiguous()), own(images[:count], ()).logits
        assert (said - told).abs().max() <= QUANTISED_LOGIT_TOLERANCE * told.abs().max()


def test_all_integers_of_a_graph_are_unsigned(rounded, tmp_path):
    """Kernels of processors without VNNI saturate where unsigned meets signed bytes."""
    import onnx

    export_network(rounded[1], DATA, ["onnx"], tmp_path, "student")
    graph = onnx.load(tmp_path / "student.onnx").graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.UINT8 in kinds
    assert onnx.TensorProto.INT8 not in kinds


ON_AVX2 = """
import sys
import numpy, onnxruntime
images = numpy.load("images.npy")
answers = []
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession("student.onnx", options, ["CPUExecutionProvider"])
    answers.append(session.run(None, {"images": images})[0])
plain, fast = answers
print(abs(fast - plain).max() / abs(plain).max())
"""


@pytest.mark.slow
def test_integers_answer_alike_without_vnni(rounded, images, tmp_path):
    """On an emulated Haswell, which has AVX2 and no VNNI."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("needs qemu-x86_64 (apt-get install qemu-user) and a processor of that kind")
    export_network(rounded[1], DATA, ["onnx"], tmp_path, "student")
    np.save(tmp_path / "images.npy", images.numpy())
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", ON_AVX2]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.strip().splitlines()[-1]) < QUANTISED_LOGIT_TOLERANCE


def test_onnxruntime_has_kernels_for_the_integers(rounded, tmp_path):
    import onnx
    import onnxruntime

    export_network(rounded[1], DATA, ["onnx"], tmp_path, "student")
    graph = onnx.load(str(tmp_path / "student.onnx")).graph
    layers = len(quantised_layers(load_network(rounded[1])))
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") >= layers
    assert kinds.count("DequantizeLinear") >= 2 * layers
    whole = [w for w in graph.initializer if w.data_type == onnx.TensorProto.UINT8 and w.dims]
    assert len(whole) >= layers
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = level
    file = str(tmp_path / "student.onnx")
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    run = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    convs = sum(run.count(kind) for kind in ("QLinearConv", "Conv", "FusedConv"))
    assert run.count("QLinearConv") >= 0.4 * convs > 0  # where channels are many, most are


FRESH = """
import sys
from pathlib import Path
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.export.exporting import depart
from stillhouse.search.artifacts.store import Library

place, key = sys.argv[1:]
data = DataConfig.parse({"source": "digits", "limit": 100, "resize": 16})
depart(Library(place).open_artifact(key), data, ["onnx", "pt2"], Path(place), "student")
assert "torchao" not in sys.modules
"""


@pytest.mark.slow
def test_integers_leave_from_a_process_that_has_quantised_nothing(tmp_path):
    library = Library(str(tmp_path))
    stage = Stage("student/quantised", QuantiseNetwork(), DATA, (_trained("lenet5"),))
    for _ in build_stages([stage], library):
        pass
    command = [sys.executable, "-c", FRESH, str(tmp_path), stage.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "student.onnx").exists()
    assert (tmp_path / "student.pt2").exists()


def test_a_quantised_winner_is_a_model_that_needs_torch_alone(rounded, images, tmp_path):
    save_classifier(load_network(rounded[1]), images, tmp_path / "model")
    program = torch.export.load(str(next((tmp_path / "model").rglob("*.pt2"))))
    operators = {str(node.target) for node in program.graph.nodes}
    assert not any("quantized_decomposed" in name for name in operators)
    with torch.no_grad():
        told = load_network(rounded[1])(images, ()).logits
        torch.testing.assert_close(program.module()(images), told)


def test_a_file_that_answers_otherwise_is_not_left_behind(artifacts, tmp_path, monkeypatch):
    read = Pt2.read
    monkeypatch.setattr(
        Pt2, "read", lambda file: lambda x: read(file)(x) * (1 + 2 * LOGIT_TOLERANCE)
    )
    with pytest.raises(ConfigError, match="pt2 answers otherwise than the network it was made"):
        export_network(artifacts["lenet5"], DATA, ["pt2"], tmp_path, "student")
    assert list(tmp_path.iterdir()) == []


class Undecided(nn.Module):
    """What it does depends on what it sees: no graph can hold that."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_what_no_graph_can_hold_is_one_line(name, artifacts, tmp_path, monkeypatch):
    own = load_network(artifacts["lenet5"])
    first = own.names[0]
    own.blocks[first] = nn.Sequential(own.blocks[first], Undecided())
    monkeypatch.setattr("stillhouse.search.export.exporting.load_network", lambda _: own)
    with pytest.raises(ConfigError) as caught:
        export_network(artifacts["lenet5"], DATA, [name], tmp_path, "student")
    (problem,) = caught.value.problems
    assert problem.path == "--to"
    assert f"student cannot be written as {name}: " in problem.message
    assert problem.message.endswith(
        f"other formats are {', '.join(n for n in FORMATS.names() if n != name)}"
    )
    assert "\n" not in problem.message
    assert list(tmp_path.iterdir()) == []


def test_formats_are_checked_before_anything_is_read(monkeypatch):
    check_formats(FORMATS.names())
    with pytest.raises(ConfigError, match=r"--to: unknown format 'onxx'; did you mean 'onnx'"):
        check_formats(["onxx"])
    monkeypatch.setattr(formatting, "find_spec", lambda _: None)
    check_formats(["pt2", "safetensors"])
    with pytest.raises(ConfigError, match=r"onnx needs onnx, .*; pip install 'stillhouse\[export"):
        check_formats(["onnx"])


def test_a_foreign_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "a").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="is no safetensors file"):
        read_network(tmp_path / "a")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "b")
    with pytest.raises(ConfigError, match="needs a file that `stillhouse export` wrote"):
        read_network(tmp_path / "b")
    for record, said in {"{": "holds no whole network", "[]": "c: needs a mapping"}.items():
        save_file({"x": torch.ones(1)}, tmp_path / "c", {"record": record})
        with pytest.raises(ConfigError, match=said):
            read_network(tmp_path / "c")


# As a user


@pytest.fixture
def searched(load, tmp_path, monkeypatch):
    """A search that has ended, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    changes = {"run.trials": 2, "run.repeats": {"top": 1, "seeds": 2}}
    experiment = load(changes, tracking=f"sqlite:///{tmp_path}/mlflow.db")
    return launch(experiment, inline=True).folder


def test_a_winner_leaves_with_its_card(searched):
    done = CliRunner().invoke(app, ["export", "tiny", "--to", "onnx", "--to", "pt2"])
    assert done.exit_code == 0, done.output
    place = searched.path / "exported"
    assert {file.name for file in place.iterdir()} == {
        "tiny.onnx",
        "tiny.pt2",
        "tiny.md",
        "tiny.json",
    }
    card = (place / "tiny.md").read_text(encoding="utf-8")
    for said in (
        "# student (trial",
        "over 2 seeds",
        "It was not measured on a test split",
        "FLOPs an image",
        "`tiny.onnx`",
        "| teacher | train |",
        "10 classes (0, 1, 2",
        "name: tiny-best",
        "onnxruntime.InferenceSession",
    ):
        assert said in card, said
    done = CliRunner().invoke(app, ["export", "tiny", "--to", "safetensors", "--json"])
    told = json.loads(done.output)
    assert [file["format"] for file in told["files"]] == ["onnx", "pt2", "safetensors"]
    assert told["test_accuracy"] == []
    card = (place / "tiny.md").read_text(encoding="utf-8")
    for format in FORMATS.names():
        assert f"| `tiny.{format}` |" in card, format
    from stillhouse import read_outcome

    assert read_outcome(searched).test_accuracies == {}


def test_one_format_that_is_refused_leaves_the_others(searched, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(Pt2, "write", fail)
    done = CliRunner().invoke(app, ["export", "tiny"])
    assert done.exit_code == 0, done.output
    assert "not written: student" in done.output
    assert "no such operator" in done.output
    names = {file.suffix for file in (searched.path / "exported").iterdir()}
    assert names == {".onnx", ".safetensors", ".md", ".json"}
    alone = CliRunner().invoke(app, ["export", "tiny", "--to", "pt2"])
    assert isinstance(alone.exception, ConfigError)
    named = CliRunner().invoke(app, ["export", "tiny", "--to", "pt2", "--to", "onnx"])
    assert named.exit_code == 1


def test_files_of_another_student_are_no_row_of_the_card(artifacts, tmp_path):
    first = export_network(artifacts["lenet5"], DATA, ["safetensors"], tmp_path, "student")
    same = export_network(artifacts["lenet5"], DATA, ["pt2"], tmp_path, "student")
    other = export_network(artifacts["resnet8"], DATA, ["pt2"], tmp_path, "student")
    formats = [file.format for file in with_earlier_files(same, first.plain()).files]
    assert formats == ["pt2", "safetensors"]
    assert with_earlier_files(other, first.plain()) == other
    for damaged in ({}, {"key": same.key}, {"key": same.key, "files": [{"format": "pt2"}]}):
        assert with_earlier_files(same, damaged) == same
    (tmp_path / "student.safetensors").write_bytes(b"another file")
    assert with_earlier_files(same, first.plain()) == same


@pytest.mark.usefixtures("searched")
def test_a_file_in_the_folders_place_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("")
    done = CliRunner().invoke(app, ["export", "tiny", "--to", "pt2", "--into", "taken"])
    assert isinstance(done.exception, ConfigError)
    assert "--into: taken cannot be made: File exists; name another folder" in str(done.exception)


def test_a_winner_that_is_damaged_is_one_line(searched):
    library = load_experiment(searched.path / "experiment.yaml").library
    for payload in Path(library).rglob("*.safetensors"):
        payload.write_bytes(b"")
    done = CliRunner().invoke(app, ["export", "tiny", "--to", "pt2"])
    assert isinstance(done.exception, ConfigError)
    assert "is damaged or missing; stillhouse resume tiny-1" in str(done.exception)


def test_a_run_without_a_winner_has_nothing_to_export(load, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    folder = RunFolder.new("tiny")
    folder.write("experiment.yaml", to_yaml(load().plain()))
    done = CliRunner().invoke(app, ["export", "tiny"])
    assert isinstance(done.exception, ConfigError)
    assert "tiny-1: has no best configuration yet; stillhouse resume tiny-1" in str(done.exception)


@pytest.mark.slow
def test_the_registered_winner_predicts_in_a_fresh_environment(load, tmp_path, monkeypatch):
    """Nothing of this project and none of its packages: what the model itself asks for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    changes = {"run.trials": 1, "run.repeats": {"top": 1, "seeds": 1}}
    experiment = load({**changes, "run.register_as": "student"}, tracking=tracking)
    launched = launch(experiment, inline=True)
    assert launched.unsent == 0
    (requirements,) = (tmp_path / "mlartifacts").rglob("requirements.txt")
    venv.create(tmp_path / "fresh", with_pip=True)
    bin_ = tmp_path / "fresh" / "bin"
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    outside |= {"MLFLOW_TRACKING_URI": tracking, "PATH": f"{bin_}:{os.environ['PATH']}"}
    quiet = ["--quiet", "--disable-pip-version-check"]
    pip = [str(bin_ / "pip"), "install", *quiet, "-r", str(requirements)]
    subprocess.run(pip, check=True, env=outside, timeout=1500, cwd=tmp_path)

    data = DataConfig.parse({"source": "digits", "limit": 100})
    images = next(open_data(data).batches("validation", batch_size=5, device="cpu")).images
    (tmp_path / "input.json").write_text(json.dumps({"inputs": images.tolist()}))
    command = [str(bin_ / "mlflow"), "models", "predict", "-m", "models:/student@best"]
    command += ["-i", "input.json", "-t", "json", "-o", "output.json", "--env-manager", "local"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=outside, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    said = np.array(json.loads((tmp_path / "output.json").read_text())["predictions"])
    repeated = launched.outcome.seed_runs[0]
    record = launched.outcome.representative(repeated)[1]
    network = load_network(Library(experiment.library).open_artifact(record.key))
    with torch.no_grad():
        told = network(images, ()).logits.numpy()
    np.testing.assert_allclose(said, told, rtol=1e-3, atol=1e-4)
