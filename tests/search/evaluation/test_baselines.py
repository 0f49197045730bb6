"""Baselines of students that go on from an assembly: the same images, nothing learnt leaks."""

import copy

import pytest
import torch

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network, reinitialise
from stillhouse.search.driver.launch import launch
from stillhouse.search.driver.reuse import repeat_winner
from stillhouse.search.evaluation.baselines import (
    equal_image_epochs,
    make_baselines,
    split_own_baselines,
)
from stillhouse.search.evaluation.finalists import select_finalists
from stillhouse.search.evaluation.width_scaling import scale_width, with_width
from stillhouse.search.execution import builder as making
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.results.outcome import TrialResult, winners_by_group
from stillhouse.search.runs.result import read_outcome
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs, network_costs
from stillhouse.spaces.modules.pca import PCAProject
from stillhouse.spaces.network_spec import NetworkSpec

FAST = {"epochs": 1, "batch_size": 50, "lr": 0.02}
BUDGETS = "assembled.budgets.parameters"
CUT = {
    "name": "cut",
    "data": {"source": "digits", "limit": 150, "validation": 0.2},
    "stages": {
        "teacher": {
            "network": {"resnet8": {"width": 0.25}},
            "objective": {"cross_entropy": {}},
            "training": FAST,
        },
        "parts": {
            "do": "neighbourhoods",
            "teacher": "teacher",
            "candidates": ["kept", "depthwise", "pruned"],
            "longest": 1,
            "training": {**FAST, "epochs": 2},
        },
        "assembled": {
            "do": "assemble",
            "neighbourhoods": "parts",
            "recalibrate": 2,
            "budgets": {"parameters": 4000},
        },
        "student": {
            "start": "assembled",
            "teachers": ["teacher"],
            "objective": {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}},
            "training": FAST,
        },
    },
    "search": {BUDGETS: {"choice": [2500, 4000]}, "assembled.rank": {"integers": [0, 1]}},
    "goal": {"maximize": "student.val_accuracy"},
    "run": {"sampler": "grid", "repeats": {"top": 1, "seeds": 2, "of_each": BUDGETS}},
}
GROUPS = (f"{BUDGETS} 2,500", f"{BUDGETS} 4,000")
ROLES = ["assembled", "plain", "scratch", "end to end", "uniform"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One library for all tests here."""
    return tmp_path_factory.mktemp("baselines")


@pytest.fixture
def load(folder):
    def loaded(changes=None, **top):
        told = {**copy.deepcopy(CUT), "library": str(folder / "library"), **top}
        return load_experiment(told, changes)

    return loaded


@pytest.fixture
def made():
    """Make stages in the shared library; returns it."""

    def make(experiment, *stages):
        making._OPEN_ARTIFACTS.clear()
        library = Library(experiment.library)
        assert LocalBackend(experiment, library, EventDispatcher([])).build(stages) == {}
        return library

    return make


def trials(*numbers):
    """Finished trials over the grid of budgets and ranks, best first."""
    grid = [(2500, 0), (2500, 1), (4000, 0), (4000, 1)]
    return [
        TrialResult(
            n, "finished", {BUDGETS: grid[n][0], "assembled.rank": grid[n][1]}, {"s": str(n)}
        )
        for n in numbers
    ]


def test_the_best_of_each_value_are_taken(load):
    found = select_finalists(load(), trials(3, 1, 0, 2))
    assert [(c.role, c.group) for c in found] == [("trial 1", GROUPS[0]), ("trial 3", GROUPS[1])]
    assert all(list(c.graphs) == [1, 2] for c in found)
    (only,) = select_finalists(load(), trials(2, 3))
    assert (only.role, only.group) == ("trial 2", GROUPS[1])
    two = select_finalists(load({"run.repeats.top": 2}), trials(3, 1, 0, 2))
    assert [c.role for c in two] == ["trial 1", "trial 0", "trial 3", "trial 2"]
    (best,) = select_finalists(load({"run.repeats.of_each": None}), trials(3, 1, 0, 2))
    assert (best.role, best.group) == ("trial 3", "")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("assembled.budgets.parameter", "did you mean 'assembled.budgets.parameters'"),
        ("student.training.lr", "needs a path with a choice or integers"),
        ("student.training.epochs", "run.repeats.of_each: unknown searched path"),
    ],
)
def test_values_that_cannot_be_told_apart_are_refused(load, path, message):
    changes = {
        "search": {**CUT["search"], "student.training.lr": {"log_uniform": [0.01, 0.1]}},
        "run.repeats.of_each": path,
    }
    with pytest.raises(ConfigError, match=message):
        load(changes)


def test_baselines_from_random_weights_may_be_trained_otherwise(load, made):
    """A fine-tuning's learning rate would be too small for them; all else stays the student's."""
    experiment = load({"run.repeats.from_random": {"lr": 0.3}})
    (best,) = select_finalists(experiment, trials(0))
    student = best.graphs[1].student
    library = made(experiment, student.parents[0])
    found = {c.role: c.graphs for c in make_baselines(experiment, best, library)}
    own = student.operation.training
    for role in ("scratch", "end to end", "uniform"):
        changed = {"lr": 0.3, "epochs": 3}
        assert found[role][1].student.operation.training == own.model_copy(update=changed)
    assert found["plain"][1].student.operation.training == own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.3}, "run.repeats.from_random: unknown field 'rate'"),
        ({"lr": "high"}, "run.repeats.from_random.lr"),
        ({"epochs": 3}, "run.repeats.from_random.epochs: is computed: as many images"),
    ],
)
def test_what_random_weights_cannot_be_trained_with_is_told(load, changes, message):
    with pytest.raises(ConfigError, match=message):
        load({"run.repeats.from_random": changes})


def test_new_weights_need_an_architecture(load):
    with pytest.raises(ConfigError, match="anew: needs start"):
        load({"teacher.anew": True})


def test_keys_of_stages_without_new_weights_stay_what_they_were(load):
    entries = load({"teacher.network": {"resnet14": {"width": 0.25}}}).stage_graph().expanded_stages
    assert fingerprint(entries["teacher"].stage.operation.identity()).startswith("27e5324396ee691b")
    assert fingerprint(entries["student"].stage.operation.identity()).startswith("923c89aac96c2a98")
    fresh = load({"student.anew": True}).stage_graph().student
    assert fresh.operation.identity() == {
        **entries["student"].stage.operation.identity(),
        "anew": True,
    }
    assert fresh.key != entries["student"].stage.key


def test_baselines_of_an_assembly_are_the_right_stages(load, made):
    experiment = load()
    (best,) = select_finalists(experiment, trials(0))
    student = best.graphs[1].student
    library = made(experiment, student.parents[0])
    settled, others = split_own_baselines(best, make_baselines(experiment, best, library))
    assert settled.coincides_with == ("direct",)  # its teacher is at the root already
    found = {c.role: c for c in others}
    assert list(found) == ROLES
    assert {c.group for c in found.values()} == {GROUPS[0]}
    assert all(list(found[role].graphs) == [1, 2] for role in ROLES[1:])
    assembly, teacher = student.parents
    stages = {role: c.graphs[1].student for role, c in found.items() if role != "assembled"}
    assert found["assembled"].graphs[0].student.key == assembly.key
    parents = {role: [p.key for p in stage.parents] for role, stage in stages.items()}
    assert parents == {
        "plain": [assembly.key],
        "scratch": [assembly.key],
        "end to end": [assembly.key, teacher.key],
        "uniform": [teacher.key],
    }
    assert {role: stage.operation.anew for role, stage in stages.items()} == {
        "plain": False,
        "scratch": True,
        "end to end": True,
        "uniform": False,
    }
    epochs = {role: stage.operation.epochs for role, stage in stages.items()}
    assert epochs == {"plain": 1, "scratch": 3, "end to end": 3, "uniform": 3}
    for role in ("end to end", "uniform"):
        assert stages[role].operation.objective == student.operation.objective
    for role in ("plain", "scratch"):
        assert set(stages[role].operation.objective.terms) == {"cross_entropy"}
    assert {stage.operation.seed for stage in stages.values()} == {1}


def test_images_are_counted_as_each_stage_sees_them(load):
    assert equal_image_epochs(load().stage_graph().student) == 1 + 2
    half = load({"parts.data": {"limit": 75}})
    assert equal_image_epochs(half.stage_graph().student) == 1 + 1
    third = load({"parts.data": {"limit": 50}, "student.training.epochs": 2})
    assert equal_image_epochs(third.stage_graph().student) == 2 + 1
    whole = load({"student.data": {"limit": 75}})
    assert equal_image_epochs(whole.stage_graph().student) == 1 + 4
    between = {"start": "assembled", "objective": {"cross_entropy": {}}, "training": FAST}
    longer = load({"stages.between": between, "student.start": "between"})
    assert equal_image_epochs(longer.stage_graph().student) == 1 + 1 + 2


def test_teachers_other_than_the_root_have_a_direct_baseline(load, made):
    other = {"network": "cnn2", "objective": {"soft_targets": {}}, "teachers": ["teacher"]}
    experiment = load({"stages.other": {**other, "training": FAST}, "student.teachers": ["other"]})
    (best,) = select_finalists(experiment, trials(0))
    library = made(experiment, best.graphs[1].student.parents[0])
    assert [c.role for c in make_baselines(experiment, best, library)] == [
        *ROLES[:2],
        "direct",
        *ROLES[2:],
    ]


def test_a_student_without_teachers_is_held_against_new_weights(load, made):
    changes = {"student.teachers": [], "student.objective": {"cross_entropy": {"weight": 0.5}}}
    experiment = load(changes)
    (best,) = select_finalists(experiment, trials(0))
    library = made(experiment, best.graphs[1].student.parents[0])
    found = {c.role: c for c in make_baselines(experiment, best, library)}
    assert list(found) == ["assembled", "scratch", "uniform"]
    for role in ("scratch", "uniform"):
        work = found[role].graphs[1].student.operation
        assert work.objective.terms["cross_entropy"].weight == 0.5


@pytest.mark.parametrize("widths", [[1.0], [0.5]])
def test_nothing_learnt_is_in_new_weights(load, made, widths):
    changes = {"parts.widths": widths}
    if widths != [1.0]:
        changes |= {"parts.candidates": ["bottleneck"], "parts.longest": 3, "parts.cuts": [1, 4]}
        changes |= {"assembled.budgets": {}, "search": {"assembled.rank": {"integers": [0, 1]}}}
        changes |= {"run.repeats.of_each": None, "assembled.recalibrate": 2}
    experiment = load(changes)
    assembly = experiment.stage_graph().student.parents[0]
    artifact = made(experiment, assembly).open_artifact(assembly.key)

    def drawn(seed, tensors=artifact.tensors):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return reinitialise(Artifact(artifact.record, tensors))

    one, same, two = drawn(1), drawn(1), drawn(2)
    learnt = load_network(artifact)
    scaled = {n: 2 * t if t.is_floating_point() else t for n, t in artifact.tensors.items()}
    elsewhere = drawn(1, scaled)
    fresh = dict(one.named_parameters())
    assert {n: p.shape for n, p in fresh.items()} == {
        n: p.shape for n, p in learnt.named_parameters()
    }
    for name, parameter in learnt.named_parameters():
        drawn_again = dict(same.named_parameters())[name]
        assert torch.equal(fresh[name], drawn_again)
        assert torch.equal(fresh[name], dict(elsewhere.named_parameters())[name])
        assert not torch.equal(fresh[name], parameter)
        if fresh[name].dim() > 1:
            assert not torch.equal(fresh[name], dict(two.named_parameters())[name])
            assert fresh[name].unique().numel() == fresh[name].numel()
        elif not name.endswith("fc.bias"):
            assert torch.equal(fresh[name], torch.full_like(parameter, name.endswith("weight")))
    for name, module in one.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()
        if isinstance(module, PCAProject):
            assert torch.equal(module.basis, artifact.tensors[f"{name}.basis"])
            assert module.basis.any()
    assert torch.equal(one.mean, artifact.tensors["mean"])
    assert any(isinstance(m, PCAProject) for m in one.modules()) == (widths != [1.0])


@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        ("resnet20", {"parameters": Limit(max=67_000)}),
        ("resnet20", {"parameters": Limit(max=100_000), "flops": Limit(max=2_000_000)}),
        ("resnet8x4", {"bytes": Limit(max=400_000)}),
        ("wrn-16-4", {"parameters": Limit(max=400_000, min=1000)}),
    ],
)
def test_the_uniform_student_is_the_widest_that_keeps_its_budgets(spec, limits):
    spec, shape = NetworkSpec.parse(spec), (3, 16, 16)
    found = scale_width(spec, shape, 10, limits)

    def excess(width):
        told = network_costs(with_width(spec, width).plain(), shape, 10).plain()
        return max(limit.violation(told[name]) for name, limit in limits.items())

    width = found.settings.width
    step = 1 if isinstance(width, int) else 0.001
    assert excess(width) <= 0 < excess(width + step)
    assert {**found.plain(), "width": 0, "stem": 0} == {**spec.plain(), "width": 0, "stem": 0}


def test_there_may_be_no_uniform_student():
    small = {"parameters": Limit(max=10)}
    assert scale_width(NetworkSpec.parse("resnet20"), (3, 16, 16), 10, small) is None
    between = {"parameters": Limit(max=100_000, min=99_990)}
    assert scale_width(NetworkSpec.parse("wrn-16-4"), (3, 16, 16), 10, between) is None
    wide = {"parameters": Limit(max=10**9)}
    spec = NetworkSpec.parse("resnet20")
    assert scale_width(spec, (3, 16, 16), 10, wide).plain() == spec.plain()
    without = NetworkSpec.parse({"torchvision": {"model": "resnet18"}})
    assert scale_width(without, (3, 32, 32), 10, wide) is None


def test_a_search_is_settled_at_every_budget(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launched = launch(load(), inline=True, test=True)
    outcome, library = launched.outcome, Library(load().library)
    assert launched.state == "finished"
    assert list(winners_by_group(outcome)) == list(GROUPS)
    told = [(r.group, r.role) for r in outcome.seed_runs]
    for group, best in winners_by_group(outcome).items():
        assert [role for g, role in told if g == group][1:] == ROLES
        of = {r.role: r for r in outcome.seed_runs if r.group == group}
        size = best.records[0].figures["parameters"]
        for role in ("assembled", "plain", "scratch", "end to end"):
            assert {r.figures["parameters"] for r in of[role].records} == {size}
        limit = int(group.split()[-1].replace(",", ""))
        assert of["uniform"].records[0].figures["parameters"] <= limit
        assert len(of["assembled"].records) == 1
        assert all(len(of[role].records) == 2 for role in ROLES[1:])
        for record in of["scratch"].records:
            network = load_network(library.open_artifact(record.key))
            assert compute_costs(network, (1, 8, 8)).parameters == size
    assert set(outcome.test_accuracies) == {r.name for r in outcome.seed_runs}
    read = read_outcome(launched.folder)
    assert [(r.group, r.role, r.seeds) for r in read.seed_runs] == [
        (r.group, r.role, r.seeds) for r in outcome.seed_runs
    ]
    assert dict(read.test_accuracies) == dict(outcome.test_accuracies)
    page = (launched.folder.path / "report.html").read_text()
    for group in GROUPS:
        assert page.count(f"parameters {group.split()[-1]}") >= len(ROLES)
    best = load_experiment(launched.folder.path / "best.yaml")
    assert best.run.repeats.of_each is None
    for typed in ("2500", "2,500"):
        chosen = repeat_winner(launched.folder.name, {}, 2, None, group=typed)
        assert chosen.stage_configs["assembled"].budgets["parameters"].max == 2500
        assert not chosen.search
    with pytest.raises(ConfigError, match="--of: unknown value '250'; did you mean '2500'"):
        repeat_winner(launched.folder.name, {}, 2, None, group="250")
