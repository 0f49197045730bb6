"""Neighbourhoods: distilled once, found again, assembled under budgets and gone on from."""

import copy

import pytest
import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.cli import plan as plan_command
from stillhouse.search.driver.assembly_proposals import propose_assemblies, write_proposals
from stillhouse.search.driver.launch import launch
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.execution import builder as making
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.report.core.participants import find_participants
from stillhouse.search.stages.core.stage import StageContext
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs

FAST = {"epochs": 1, "batch_size": 50, "lr": 0.02}
CUT = {
    "name": "cut",
    "data": {"source": "digits", "limit": 150, "validation": 0.2},
    "stages": {
        "teacher": {
            "network": {"resnet14": {"width": 0.25}},
            "objective": {"cross_entropy": {}},
            "training": FAST,
        },
        "parts": {
            "do": "neighbourhoods",
            "teacher": "teacher",
            "candidates": ["kept", "depthwise", "identity"],
            "longest": 1,
            "training": FAST,
        },
        "assembled": {"do": "assemble", "neighbourhoods": "parts", "recalibrate": 2},
        "student": {
            "start": "assembled",
            "teachers": ["teacher"],
            "objective": {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}},
            "training": FAST,
        },
    },
    "goal": {"maximize": "student.val_accuracy"},
    "run": {"repeats": {"top": 0}, "baselines": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One library for all tests here: whatever one has made, the others find."""
    return tmp_path_factory.mktemp("cut")


@pytest.fixture
def load(folder):
    def loaded(changes=None):
        told = {**copy.deepcopy(CUT), "library": str(folder / "library")}
        return load_experiment(told, changes)

    return loaded


@pytest.fixture
def make():
    """Make an experiment's student; returns its artifact, and the labels of what was made."""

    def made(experiment):
        making._OPEN_ARTIFACTS.clear()
        library, events = Library(experiment.library), []
        shop = LocalBackend(experiment, library, EventDispatcher([events.append]))
        student = experiment.stage_graph().student
        failed = shop.build([student])
        assert failed == {}
        labels = [e.label for e in events if getattr(e, "state", "") == "made"]
        return library.open_artifact(student.key), labels

    return made


def stages(experiment, kind):
    return [s for s in experiment.stage_graph().student.ancestors() if s.operation.kind == kind]


def test_every_interval_has_every_candidate_that_fits(load):
    experiment = load()
    made = stages(experiment, "neighbourhood")
    assert len(made) == 6 * 3
    assert {(s.operation.start, s.operation.stop) for s in made} == {
        (i, i + 1) for i in range(1, 7)
    }
    assert len({s.label for s in made}) == len(made)
    longer = stages(load({"parts.longest": 2}), "neighbourhood")
    assert {s.key for s in made} < {s.key for s in longer}
    assert len(longer) == len(made) + 5 * 2  # a run kept whole is its blocks kept one by one


def test_budgets_do_not_touch_neighbourhoods_and_a_candidate_adds_its_own(load):
    keys = {s.key for s in stages(load(), "neighbourhood")}
    other = load({"assembled.budgets.parameters": 5000, "assembled.rank": 1})
    assert {s.key for s in stages(other, "neighbourhood")} == keys
    more = load({"parts.candidates": ["kept", "depthwise", "identity", "ghost"]})
    new = [s for s in stages(more, "neighbourhood") if s.key not in keys]
    assert {s.operation.block.name for s in new} == {"ghost"}
    assert {s.key for s in stages(more, "neighbourhood")} > keys


def test_without_budgets_the_teacher_comes_back_to_the_bit(load, make):
    experiment = load({"assembled.recalibrate": 0, "assembled.score": "nmse"})
    make(experiment)
    library = Library(experiment.library)
    recipe = experiment.stage_graph()
    whole = load_network(library.open_artifact(recipe.expanded_stages["assembled"].stage.key))
    teacher = load_network(library.open_artifact(recipe.expanded_stages["teacher"].stage.key))
    data = open_data(DataConfig.parse(CUT["data"]))
    images = next(data.batches("validation", batch_size=30, device="cpu")).images
    with torch.no_grad():
        assert torch.equal(whole(images).logits, teacher(images).logits)
    assert whole.names == teacher.names


def test_a_budget_is_kept_and_another_makes_no_neighbourhood(load, make):
    make(load())
    whole = stages(load(), "assemble")[0]
    experiment = load({"assembled.budgets.parameters": 5000})
    student, made = make(experiment)
    assert made == ["assembled", "student"]
    library = Library(experiment.library)
    record = library.record(stages(experiment, "assemble")[0].key)
    teacher = library.record(experiment.stage_graph().expanded_stages["teacher"].stage.key)
    assert record.figures["parameters"] <= 5000 < teacher.figures["parameters"]
    assert record.figures["planned_score"] >= library.record(whole.key).figures["planned_score"]
    network = load_network(student)
    assert compute_costs(network, (1, 8, 8)).plain() == {
        name: student.record.figures[name] for name in ("parameters", "flops", "bytes")
    }
    assert student.record.figures["parameters"] == record.figures["parameters"]


def test_ranks_are_other_networks_in_the_order_of_their_scores(load, make):
    found = []
    for rank in range(3):
        experiment = load({"assembled.budgets.parameters": 5000, "assembled.rank": rank})
        make(experiment)
        key = stages(experiment, "assemble")[0].key
        found.append(Library(experiment.library).record(key))
    assert len({tuple(record.facts["chosen"]) for record in found}) == 3
    scores = [record.figures["planned_score"] for record in found]
    assert scores == sorted(scores)


def test_narrow_boundaries_make_narrow_students(load, make):
    changes = {
        "parts.candidates": ["bottleneck"],
        "parts.widths": [0.5],
        "parts.cuts": [1, 4, 7],
        "parts.longest": 3,
    }
    student, made = make(load(changes))
    assert {label for label in made if "/cut" in label} == {
        "parts/cut1",
        "parts/cut4",
        "parts/cut7",
    }
    network = load_network(student)
    widths = [f.shape[1] for f in network(torch.rand(2, 1, 8, 8)).features.values()]
    assert widths[:-1] == [2, 4, 8]


def test_a_diverging_candidate_is_left_out(load, make, monkeypatch):
    experiment = load({"parts.candidates": ["kept", "ghost"], "parts.training.lr": 0.03})
    ghost = type(experiment.stage_configs["parts"].candidates[1].settings)
    build = ghost.build

    def wild(self, span, inputs, outputs):
        module = build(self, span, inputs, outputs)
        if inputs == (4, 8, 8):
            for parameter in module.parameters():
                parameter.data.fill_(float("nan"))
        return module

    monkeypatch.setattr(ghost, "build", wild)
    student, _ = make(experiment)
    library = Library(experiment.library)
    lost = [
        record
        for stage in stages(experiment, "neighbourhood")
        if "diverged" in (record := library.record(stage.key)).facts
    ]
    assert lost
    assert all("ghost" in record.name for record in lost)
    assert "diverged in epoch 1" in lost[0].facts["diverged"]
    assert student.record.figures["val_accuracy"] >= 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts.cuts": [1, 7]}, "no interval of at most 1"),
        ({"parts.cuts": [1, 99]}, "99"),
        ({"parts.candidates": ["kept", "gost"]}, "ghost"),
        ({"assembled.budgets": {"parameter": 3}}, "parameters"),
        ({"assembled.neighbourhoods": "teacher"}, "do: neighbourhoods"),
        ({"parts.data": {"validation": 0.0}}, "has no validation split, which scores"),
        ({"student.start": "parts"}, "no network to start from"),
        ({"student.network": "cnn2"}, "cannot be combined with start"),
        ({"student.teachers": ["parts"]}, "no network that could teach"),
    ],
)
def test_mistakes_are_told_before_anything_runs(load, changes, message):
    with pytest.raises(ConfigError, match=message):
        load(changes)


def test_a_budget_out_of_reach_names_what_can_be_reached(load):
    experiment = load({"assembled.budgets.parameters": 10})
    shop = LocalBackend(experiment, Library(experiment.library), EventDispatcher([]))
    (reason,) = shop.build([stages(experiment, "assemble")[0]]).values()
    assert "parameters" in reason
    assert "10" in reason


def test_plans_from_the_library_are_files_to_launch(load, make, tmp_path):
    make(load())
    limits = {"parameters": Limit(max=4000)}
    found = propose_assemblies(load(), limits, count=3).proposals
    assert [offer.rank for offer in found] == [0, 1, 2]
    assert all(offer.costs["parameters"] <= 4000 for offer in found)
    files = write_proposals(load(), limits, found, tmp_path)
    for offer, file in zip(found, files, strict=True):
        student, made = make(load_experiment(file))
        assert "assembled" in made
        assert not [label for label in made if label.startswith("parts/")]
        for cost in ("parameters", "flops", "bytes"):
            assert student.record.figures[cost] == offer.costs[cost]
        stage = stages(load_experiment(file), "assemble")[0]
        record = Library(load().library).record(stage.key)
        assert tuple(record.facts["chosen"]) == offer.chosen


def test_what_was_assembled_corrects_the_plans(load, make):
    for rank in range(4):
        make(load({"assembled.rank": rank, "assembled.budgets.parameters": 4500}))
    offered = propose_assemblies(load(), {"parameters": Limit(max=4500)}, count=8)
    assert len(offered.cost_model.measured_assemblies) >= 4
    assert offered.cost_model.loss_calibration is not None
    known = [offer for offer in offered.proposals if offer.measured is not None]
    assert known
    for offer in known:
        assert 0 <= offer.measured <= 1
    scores = [offer.score for offer in offered.proposals]
    assert scores == sorted(scores)


def test_a_chosen_part_that_is_none_is_a_mistake(load):
    with pytest.raises(ConfigError, match="did you mean '1-2 kept'"):
        load({"assembled.chosen": ["1-2 keptt"]})


def test_a_search_chooses_among_plans(folder, tmp_path, monkeypatch):
    """Budgets and ranks are searched; parts are made once and are nobody's teachers."""
    monkeypatch.chdir(tmp_path)
    told = {**copy.deepcopy(CUT), "library": str(folder / "library")}
    told["stages"]["assembled"]["budgets"] = {"parameters": 6000}
    told["search"] = {
        "assembled.rank": {"integers": [0, 1]},
        "assembled.budgets.parameters": {"choice": [4500, 6000]},
    }
    told["goal"]["subject_to"] = {"student.parameters": 6000}
    told["run"] = {**told["run"], "sampler": "grid"}
    launched = launch(load_experiment(told), inline=True)
    assert launched.state == "finished"
    trials = launched.outcome.trials
    assert [trial.state for trial in trials] == ["finished"] * 4
    assert all(trial.feasible for trial in trials)
    shared = find_participants(launched.outcome, told).shared.values()
    assert {each.label for each in shared} == {"teacher", "assembled"}
    best = load_experiment(launched.folder.path / "best.yaml")
    assert best.stage_graph().student.key in {trial.stage_keys["student"] for trial in trials}


def test_inputs_without_data_are_stages_of_their_own(load):
    """Boundaries too; at full width those of noise are called as before there were statistics."""
    narrow = {"parts.candidates": ["bottleneck"], "parts.widths": [0.5]}
    keys = []
    for inputs in ("data", "noise", "statistics"):
        experiment = load({**narrow, "parts.inputs": inputs})
        found = [s for kind in ("neighbourhood", "boundary") for s in stages(experiment, kind)]
        assert {stage.operation.inputs for stage in found} == {inputs}
        keys.append({stage.key for stage in found})
    assert len(set.union(*keys)) == sum(map(len, keys))
    bases = stages(load(narrow), "boundary")
    assert all("inputs" not in base.operation.identity() for base in bases)


@pytest.mark.parametrize("inputs", ["noise", "statistics"])
def test_a_student_comes_of_parts_that_saw_no_data(load, make, inputs):
    changes = {
        "parts.inputs": inputs,
        "parts.candidates": ["kept", "bottleneck"],
        "parts.widths": [0.5, 1.0],
        "parts.cuts": [1, 4, 7],
        "parts.longest": 3,
        "assembled.budgets.parameters": 5000,
    }
    student, made = make(load(changes))
    assert {label for label in made if "/cut" in label}
    assert 0 <= student.record.figures["val_accuracy"] <= 1


def test_statistics_of_a_teacher_that_has_none_are_a_mistake(load):
    teacher = {"teacher.network": "lenet5", "data.resize": 16, "parts.candidates": ["ghost"]}
    load(teacher)
    with pytest.raises(ConfigError, match=r"parts\.inputs.*has none; use noise or data"):
        load({**teacher, "parts.inputs": "statistics"})


class Notes:
    """Remembers what a stage saves; asked, it is never time to."""

    def __init__(self, tensors=None):
        self.tensors, self.stored = tensors, []

    def load(self):
        return self.tensors

    def is_due(self):
        return False

    def save(self, tensors):
        self.stored.append(tensors)


def test_a_group_that_is_lost_goes_on_from_its_last_whole_epoch(load, make):
    changes = {"parts.training.epochs": 3, "parts.candidates": ["depthwise"]}
    experiment = load(changes)
    make(experiment)
    parts, library = stages(experiment, "neighbourhood"), Library(experiment.library)
    teacher = library.open_artifact(experiment.stage_graph().expanded_stages["teacher"].stage.key)

    def run(notes):
        works, ready = [part.operation for part in parts], [[teacher]] * len(parts)
        bench = StageContext(torch.device("cpu"), notes)
        making = DistilNeighbourhood.run_batch(works, parts[0].data, ready, bench)
        reports = []
        while True:
            try:
                reports.append(next(making)[0]["epoch"])
            except StopIteration as end:
                return reports, end.value

    whole, again = Notes(), Notes()
    assert run(whole)[0] == [1.0, 2.0, 3.0]
    assert [int(tensors["epoch"]) for tensors in whole.stored] == [1, 2]
    again.tensors = whole.stored[-1]
    reports, products = run(again)
    assert reports == [1.0, 2.0, 3.0]
    assert again.stored == []
    for part, product in zip(parts, products, strict=True):
        for name, tensor in library.open_artifact(part.key).tensors.items():
            assert torch.equal(tensor, product.tensors[name])


NOISE = {
    "student.data": {"augment": {"noise": True}},
    "student.objective.cross_entropy.weight": 0.0,
}


def test_a_student_learns_on_noise_from_its_teacher_alone(load, make):
    student, made = make(load(NOISE))
    plain, _ = make(load({**NOISE, "student.data": {}}))
    assert "student" in made
    assert student.record.key != plain.record.key
    assert student.record.figures["val_accuracy"] >= 0  # on real images, held out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"student.objective.cross_entropy.weight": 0.1},
            r"student\.objective.*needs labels",
        ),
        ({"teacher.data": {"augment": {"noise": True}}}, r"teacher\.objective.*needs labels"),
        ({"run.baselines": True}, r"run\.baselines.*set false"),
    ],
)
def test_labels_of_noise_are_nothing_to_learn_from(load, changes, message):
    with pytest.raises(ConfigError, match=message):
        load({**NOISE, **changes})


def test_what_a_launch_would_make_is_told_with_parts_together(load):
    """Hundreds of neighbourhoods are one row, and count in the estimate."""
    planned = plan_search(load({"parts.seed": 9, "assembled.calibrate": 3}), slots=1)
    parts = [s for s in planned.stages if s.kind == "neighbourhood"]
    assert len(parts) == 18
    assert all(stage.seconds > 0 for stage in parts if "identity" not in stage.label)
    assert planned.seconds >= sum(stage.seconds for stage in parts)
    rows = {row[0]: row for row in plan_command._stage_rows(planned)}
    assert set(rows) == {"teacher", "parts: 18 neighbourhoods", "assembled: 4 assemblies"}
    assert rows["parts: 18 neighbourhoods"][3] == "0 of 18"


def test_parts_of_drawn_statistics_are_left_with_theirs(load):
    """Their moments are the teacher's, and taking them anew would take training images."""
    bare = {"assembled.recalibrate": None}
    assert stages(load(bare), "assemble")[0].operation.recalibrate == 20
    drawn = {**bare, "parts.inputs": "statistics"}
    assert stages(load(drawn), "assemble")[0].operation.recalibrate == 0
    said = load({**drawn, "assembled.recalibrate": 5})
    assert stages(said, "assemble")[0].operation.recalibrate == 5
