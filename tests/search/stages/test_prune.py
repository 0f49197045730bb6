"""Pruning in a recipe: pruned once, kept, fine-tuned by what it was, and built again."""

import copy

import pytest
import torch

from stillhouse.search.assembly.network import load_network
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.compression.pruning import prune_channels
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs

FAST = {"epochs": 1, "batch_size": 64, "lr": 0.02}


@pytest.fixture
def told(tiny):
    data = copy.deepcopy(tiny)
    data["data"] = {"source": "digits", "limit": 200, "resize": 16}
    data["stages"] = {
        "teacher": {"network": "resnet8", "objective": {"cross_entropy": {}}, "training": FAST},
        "student": {"do": "prune", "start": "teacher", "sparsity": 0.5, "training": FAST},
    }
    data["search"] = {"student.sparsity": "declared"}
    return data


def make(experiment, library, values=None):
    recipe = experiment.stage_graph(values)
    for _ in build_stages([recipe.student], library):
        pass
    return recipe, {s.label: library.open_artifact(s.key) for s in recipe.student.ancestors()}


def test_a_pruned_network_is_fine_tuned_by_what_it_was(told, library):
    recipe, made = make(load_experiment(told), library)
    assert list(made) == ["teacher", "student/pruned", "student"]
    first, tuned = made["student/pruned"], made["student"]
    assert [p.label for p in recipe.student.parents] == ["student/pruned", "teacher"]
    by_hand = load_network(made["teacher"])
    prune_channels(by_hand, (1, 16, 16), 0.5)
    for name, tensor in by_hand.named_parameters():
        assert torch.equal(first.tensors[name], tensor), name
    assert first.record.figures["parameters"] == compute_costs(by_hand, (1, 16, 16)).parameters
    assert tuned.record.figures["parameters"] == first.record.figures["parameters"]
    assert "train_soft_targets" in tuned.record.curve[0]
    assert "val_agreement" in tuned.record.figures
    network = load_network(tuned)
    assert network(torch.rand(2, 1, 16, 16), ()).logits.shape == (2, 10)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tuned.tensors[name])


def test_single_weights_stay_out_through_the_fine_tuning(told, library):
    told["stages"]["student"] |= {"how": "weights", "scope": "network", "sparsity": 0.8}
    _, made = make(load_experiment(told), library)
    first, tuned = made["student/pruned"].tensors, made["student"].tensors
    weights = [n for n in first if n.endswith("weight") and first[n].dim() > 1]
    zeros = sum(int((first[n] == 0).sum()) for n in weights)
    assert zeros / sum(first[n].numel() for n in weights) == pytest.approx(0.8, abs=0.001)
    for name in weights:
        assert torch.equal(first[name] == 0, tuned[name] == 0), name
    assert any(not torch.equal(first[name], tuned[name]) for name in weights)
    figures = made["student/pruned"].record.figures
    assert figures["nonzero"] == figures["parameters"] - zeros


def test_a_pruned_network_is_pruned_again(told, library):
    student = told["stages"].pop("student")
    told["stages"]["once"] = {**student, "objective": None}
    told["stages"]["student"] = {**student, "start": "once", "teachers": ["teacher"]}
    _, made = make(load_experiment(told), library)
    assert list(made) == ["teacher", "once/pruned", "student/pruned", "student"]
    counts = [made[name].record.figures["parameters"] for name in made]
    assert counts[0] > counts[1] > counts[2] == counts[3]


def test_sparsity_is_searched_and_the_teacher_shared(told):
    experiment = load_experiment(told)
    one, other = (experiment.stage_graph({"student.sparsity": s}) for s in (0.3, 0.6))
    assert one.keys_by_label["teacher"] == other.keys_by_label["teacher"]
    assert one.keys_by_label["student/pruned"] != other.keys_by_label["student/pruned"]
    assert str(experiment.search["student.sparsity"]) == "uniform [0.1, 0.9]"
    tuned = load_experiment(told, {"student.training.lr": 0.1}).stage_graph()
    assert (
        tuned.keys_by_label["student/pruned"]
        == experiment.stage_graph().keys_by_label["student/pruned"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"student.sparsity": 0.95},
            "0.95 would remove every channel of blocks.stem.conv in teacher, ",
        ),
        ({"student.sparsity": 1.0}, "student.sparsity: "),
        ({"student.start": "teachr"}, "unknown stage 'teachr'; did you mean 'teacher'?"),
        ({"student.how": "rows"}, "student.how: "),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(told, changes, message):
    del told["search"]
    with pytest.raises(ConfigError) as error:
        load_experiment(told, changes)
    assert message in str(error.value)
