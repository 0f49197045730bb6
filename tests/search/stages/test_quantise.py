"""Quantising in a recipe: after training or along with it, before or after pruning, and shared."""

import copy
import importlib.util
import math
import sys

import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.training.train import train
from stillhouse.search.assembly.frozen import frozen_teacher
from stillhouse.search.assembly.network import load_network
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.stages.expansion import compression
from stillhouse.spaces.compression.quantisation import packed_state_dict, quantised_layers
from stillhouse.spaces.config.problems import ConfigError

FAST = {"epochs": 1, "batch_size": 64, "lr": 0.02}
LEARNT = {"epochs": 4, "batch_size": 32, "lr": 0.05}
BOTH = [["prune", "quantise"], ["quantise", "prune"]]


@pytest.fixture
def told(tiny):
    data = copy.deepcopy(tiny)
    data["data"] = {"source": "digits", "limit": 200, "resize": 16}
    data["stages"] = {
        "teacher": {"network": "resnet8", "objective": {"cross_entropy": {}}, "training": FAST},
        "student": {"do": "quantise", "start": "teacher", "training": FAST},
    }
    del data["search"]
    return data


@pytest.fixture
def both(told):
    """A student that is pruned and quantised."""
    steps = {"prune": {"training": FAST}, "quantise": {"training": FAST}}
    told["stages"]["student"] = {"do": "compress", "start": "teacher", **steps}
    return told


def make(experiment, library, values=None):
    recipe = experiment.stage_graph(values)
    for _ in build_stages([recipe.student], library):
        pass
    return recipe, {s.label: library.open_artifact(s.key) for s in recipe.student.ancestors()}


def answers(network):
    with torch.no_grad():
        return network(torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)), ())[0]


def test_a_quantised_network_is_fine_tuned_by_what_it_was(told, library):
    recipe, made = make(load_experiment(told), library)
    assert list(made) == ["teacher", "student/quantised", "student"]
    assert [p.label for p in recipe.student.parents] == ["student/quantised", "teacher"]
    first, tuned = made["student/quantised"], made["student"]
    path = "blocks.stage2_1.conv1"
    weights = [name for name, tensor in first.tensors.items() if tensor.dtype == torch.int8]
    assert len(weights) == 10
    for artifact in (first, tuned):
        assert artifact.tensors[f"{path}.weight"].dtype == torch.int8
        assert f"{path}.scale" in artifact.tensors
        network = load_network(artifact)
        assert all(
            torch.equal(t, artifact.tensors[name]) for name, t in packed_state_dict(network).items()
        )
        assert artifact.record.figures["bytes"] == sum(
            t.numel() * t.element_size() for t in artifact.tensors.values()
        )
        assert artifact.record.payload.size < 0.35 * made["teacher"].record.payload.size
    assert any(not torch.equal(first.tensors[name], tuned.tensors[name]) for name in weights)
    assert "train_soft_targets" in tuned.record.curve[0]
    assert "val_agreement" in tuned.record.figures
    assert tuned.record.figures["parameters"] < made["teacher"].record.figures["parameters"]


def test_an_artifact_answers_as_the_network_that_was_trained(told, library):
    """The network as training left it, its weights in float, beside that of the integers."""
    experiment = load_experiment(told)
    recipe, made = make(experiment, library)
    work, network = recipe.student.operation, load_network(made["student/quantised"])
    teacher = frozen_teacher(made["teacher"], torch.device("cpu"))
    data = open_data(experiment.data)
    for _ in train(
        network, [teacher], work.objective, data, work.training, seed=work.seed, device="cpu"
    ):
        pass
    (_, layer), *_ = quantised_layers(network)
    assert not torch.equal(layer.weight, layer.dequantised_weight())
    assert torch.equal(answers(network), answers(load_network(made["student"])))


class Kept:
    """Saves in memory, for one epoch."""

    def __init__(self):
        self.tensors = None

    def load(self):
        return self.tensors

    def is_due(self):
        return self.tensors is None

    def save(self, tensors):
        self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}


def test_training_resumes_from_float_weights_bit_for_bit(told, library):
    told["stages"]["student"]["training"] = {**FAST, "epochs": 2, "ema": 0.9}
    experiment = load_experiment(told)
    recipe, made = make(experiment, library)
    work, saves, results = recipe.student.operation, Kept(), []
    for _ in range(2):
        network = load_network(made["student/quantised"])
        teacher = frozen_teacher(made["teacher"], torch.device("cpu"))
        common = {"seed": work.seed, "device": "cpu", "checkpointer": saves}
        for _ in train(
            network, [teacher], work.objective, open_data(experiment.data), work.training, **common
        ):
            pass
        results.append(network.state_dict())
    weight = saves.tensors["student.blocks.stage2_1.conv1.weight"]
    assert weight.dtype == torch.float32
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_8_bits_lose_little_after_training_and_2_bits_much(told, library):
    told["data"]["limit"] = 600
    told["stages"]["teacher"]["training"] = LEARNT
    told["stages"]["student"]["how"] = "ptq"
    experiment = load_experiment(told)
    found, sizes = {}, {}
    for bits in (8, 4, 2):
        recipe, made = make(experiment, library, {"student.bits": bits})
        assert recipe.student.label == "student/quantised"
        found[bits] = made["student/quantised"].record.figures["val_accuracy"]
        sizes[bits] = made["student/quantised"].record.figures["bytes"]
        figures = made["student/quantised"].record.figures
        assert all(math.isfinite(value) for value in figures.values())
    whole = made["teacher"].record.figures["val_accuracy"]
    assert whole > 0.8
    assert found[8] > whole - 0.02
    assert found[2] < found[8] - 0.1
    assert found[2] <= found[4] <= found[8] + 0.02
    assert sizes[4] == sizes[2] < 0.65 * sizes[8]
    assert (
        len({experiment.stage_graph({"student.bits": b}).keys_by_label["teacher"] for b in (8, 4)})
        == 1
    )


def test_answering_needs_no_package_but_torch(told, library, monkeypatch):
    told["stages"]["student"]["how"] = "ptq"
    _, made = make(load_experiment(told), library)
    wanted = answers(load_network(made["student/quantised"]))
    for name in [name for name in sys.modules if name.split(".")[0] == "torchao"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert torch.equal(answers(load_network(made["student/quantised"])), wanted)


def test_training_goes_on_from_a_quantised_network(told, library):
    told["stages"]["quantised"] = {**told["stages"].pop("student"), "how": "ptq", "bits": 4}
    told["stages"]["student"] = {
        "start": "quantised",
        "objective": {"cross_entropy": {}},
        "training": FAST,
    }
    _, made = make(load_experiment(told), library)
    network = load_network(made["student"])
    assert {layer.bits for _, layer in quantised_layers(network)} == {4}
    assert "forgetting" not in made["student"].record.figures


@pytest.mark.parametrize("order", BOTH, ids="-".join)
def test_both_ways_round_it_is_pruned_and_quantised(both, library, order):
    both["stages"]["student"]["order"] = order
    _, made = make(load_experiment(both), library)
    first, second = order
    assert list(made) == [
        "teacher",
        f"student/{first}/{first}d",
        f"student/{first}",
        f"student/{second}d",
        "student",
    ]
    network = load_network(made["student"])
    assert len(quantised_layers(network)) == 10
    assert (
        made["student"].record.figures["parameters"]
        < 0.4 * (made["teacher"].record.figures["parameters"])
    )
    assert "val_agreement" in made["student"].record.figures
    for artifact in made.values():
        assert torch.isfinite(answers(load_network(artifact))).all()


@pytest.mark.parametrize("order", BOTH, ids="-".join)
def test_zeros_stay_zeros(both, library, order):
    student = both["stages"]["student"]
    student["order"] = order
    student["prune"] |= {"how": "weights", "sparsity": 0.7}
    _, made = make(load_experiment(both), library)
    pruned = next(a for label, a in made.items() if label.endswith("/pruned"))
    name = "blocks.stage3_1.conv2.weight"
    zeros = pruned.tensors[name] == 0
    assert zeros.float().mean() > 0.69
    assert (made["student"].tensors[name][zeros] == 0).all()


def test_orders_and_bits_share_what_they_can(both):
    both["search"] = {
        "student.order": "declared",
        "student.quantise.bits": "declared",
        "student.prune.sparsity": {"choice": [0.3, 0.6]},
    }
    experiment = load_experiment(both)
    found = list(experiment.configurations(2))
    assert len(found) == 8
    recipes = [experiment.stage_graph(values) for values in found]
    assert len({recipe.student.key for recipe in recipes}) == 8
    stages = {s.key: s.label for r in recipes for s in r.student.ancestors()}
    counts = {label: list(stages.values()).count(label) for label in set(stages.values())}
    assert counts["teacher"] == 1
    assert counts["student/prune/pruned"] == counts["student/prune"] == 2
    assert counts["student/quantise/quantised"] == counts["student/quantise"] == 2
    assert experiment.stage_graph({"student.order": ["quantise"]}).student.label == "student"


def test_a_plan_counts_compressing_and_fine_tuning(both):
    planned = {stage.label: stage for stage in plan_search(load_experiment(both), slots=1).stages}
    assert planned["student/prune/pruned"].seconds > 0
    assert planned["student/prune"].seconds > 0
    assert planned["student/quantised"].seconds > 0
    both["search"] = {"student.order": "declared", "student.quantise.bits": "declared"}
    told = plan_search(load_experiment(both), slots=1)
    assert told.exact
    labels = [stage.label for stage in told.stages]
    assert labels.count("student/prune/pruned") == 1
    assert labels.count("student/quantise/quantised") == labels.count("student/quantised") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.bits": 1}, "student.bits: "),
        ({"student.how": "dynamic"}, "student.how: "),
        ({"student.start": "teachr"}, "unknown stage 'teachr'; did you mean 'teacher'?"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(told, changes, message):
    with pytest.raises(ConfigError) as error:
        load_experiment(told, changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": ["prune", "prune"]}, "student.order: needs prune, quantise or both, each once"),
        ({"prune": {"sparsity": 2.0}}, "student.prune.sparsity: "),
        ({"quantise": {"bit": 4}}, "student.quantise: unknown field 'bit'; did you mean 'bits'?"),
        ({"quantise": {"start": "teacher"}}, "student.quantise: unknown field 'start'"),
        (
            {"prune": {"sparsity": 0.97}},
            "student.prune.sparsity: 0.97 would remove every channel of",
        ),
    ],
)
def test_a_steps_problem_is_placed(both, changes, message):
    both["stages"]["student"] |= changes
    with pytest.raises(ConfigError) as error:
        load_experiment(both)
    assert message in str(error.value)


def test_the_architecture_of_a_quantised_network_is_not_made_anew(told):
    told["stages"]["quantised"] = told["stages"].pop("student")
    told["stages"]["student"] = {
        "start": "quantised",
        "anew": True,
        "objective": {"cross_entropy": {}},
    }
    with pytest.raises(ConfigError, match=r"student\.anew: .* which is quantised; start from"):
        load_experiment(told)


@pytest.mark.parametrize(
    ("do", "package"), [("quantise", "torchao"), ("prune", "torch_pruning"), ("compress", "torch")]
)
def test_a_missing_package_is_one_line(told, monkeypatch, do, package):
    told["stages"]["student"] = {"do": do, "start": "teacher"}
    monkeypatch.setattr(
        compression,
        "find_spec",
        lambda name: None if name.startswith(package) else importlib.util.find_spec(name),
    )
    with pytest.raises(ConfigError) as error:
        load_experiment(told)
    (problem,) = error.value.problems
    assert problem.message.endswith("pip install 'stillhouse[compress]'")
    assert package in problem.message


def test_a_recurrent_network_is_refused_by_name(told, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"label": [0, 1] * 20, "text": ["a b c", "d e f"] * 20}
    for part in ("train", "test"):
        pq.write_table(pa.table(columns), tmp_path / f"{part}-00000-of-00001.parquet")
    told["data"] = {"source": "text", "root": str(tmp_path)}
    told["stages"]["teacher"]["network"] = "bilstm_small"
    with pytest.raises(ConfigError, match=r"student\.start: blocks\.lstm1 is of kind LSTM, which"):
        load_experiment(told)
