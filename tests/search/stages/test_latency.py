"""Latency as a cost: measured once a structure, added up, corrected by whole networks, kept."""

import copy
import itertools
import math
import re

import pytest
import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.calibration import calibrate
from stillhouse.search.core.metrics import LATENCY_METRIC
from stillhouse.search.driver.assembly_proposals import propose_assemblies, write_proposals
from stillhouse.search.execution import builder as making
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.latency import LatencySettings, measure_latency
from stillhouse.spaces.networks import resolve

FAST = {"epochs": 1, "batch_size": 50, "lr": 0.02}
TIMED = {
    "name": "timed",
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
            "widths": [1.0, 0.5],
            "training": FAST,
        },
        "assembled": {
            "do": "assemble",
            "neighbourhoods": "parts",
            "recalibrate": 2,
            "latency": {},
            "calibrate": 4,
        },
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
    return tmp_path_factory.mktemp("timed")


@pytest.fixture
def load(folder):
    def loaded(changes=None):
        return load_experiment(
            {**copy.deepcopy(TIMED), "library": str(folder / "library")}, changes
        )

    return loaded


@pytest.fixture
def make():
    """Make what an experiment assembles; returns its record, and the labels of what was made."""

    def made(experiment):
        making._OPEN_ARTIFACTS.clear()
        library, events = Library(experiment.library), []
        stage = experiment.stage_graph().expanded_stages["assembled"].stage
        failed = LocalBackend(experiment, library, EventDispatcher([events.append])).build([stage])
        assert failed == {}
        labels = [e.label for e in events if getattr(e, "state", "") == "made"]
        return library.record(stage.key), labels

    return made


def timed(experiment):
    """Label -> stage of every part's latency."""
    lineage = experiment.stage_graph().student.ancestors()
    return {s.label.partition("time ")[2]: s for s in lineage if s.operation.kind == "latency"}


def test_one_structure_for_one_feature_is_one_measurement(load):
    work = load().stage_graph().expanded_stages["assembled"].stage.operation
    keys = work.timed
    # Blocks 1 and 2 keep four channels on the whole map; block 3 halves the map.
    assert keys["1-2 kept"] == keys["2-3 kept"]
    assert keys["1-2 depthwise"] == keys["2-3 depthwise"] != keys["3-4 depthwise"]
    assert keys["1-2 depthwise"] != keys["1-2 kept"]
    assert keys["1-2 depthwise"] != keys["1-2 depthwise 1-0.5"]
    assert {"stem", "stem 0.5", "head", "head 0.5"} < keys.keys()
    assert set(keys.values()) == {stage.key for stage in timed(load()).values()}


def test_weights_and_data_are_not_in_its_key_but_device_and_batch_are(load):
    keys = load().stage_graph().expanded_stages["assembled"].stage.operation.timed

    def other(changes):
        return load(changes).stage_graph().expanded_stages["assembled"].stage.operation.timed

    assert other({"teacher.seed": 5, "data.limit": 100}) == keys
    assert other({"assembled.latency.hardware": "another"}).values() != keys.values()
    for change in ({"batch": 4}, {"threads": 2}, {"precision": "bfloat16"}, {"hardware": "x"}):
        found = other({"assembled.latency": change})
        assert not set(found.values()) & set(keys.values())


def test_the_devices_own_name_and_torchs_version_are_part_of_the_key(monkeypatch):
    told = LatencySettings().identity()
    monkeypatch.setattr("stillhouse.spaces.latency.device_name", lambda _: "an abacus")
    assert LatencySettings().identity() == {**told, "hardware": "an abacus"}
    assert LatencySettings(hardware="mine").identity()["hardware"] == "mine"
    assert set(told) == {"device", "batch", "precision", "threads", "hardware", "torch"}


def test_a_device_that_a_worker_lacks_is_one_line_with_its_remedy(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    network = resolve("cnn2")[1].build((1, 8, 8), 10)
    with pytest.raises(RuntimeError, match=r"no GPU; set run.resources.gpu, or run.latency.device"):
        LatencySettings(device="cuda").measure(network, (1, 8, 8))


def test_latency_says_how_it_is_measured_in_one_place(load):
    """``run.latency`` is what a goal, a limit and a budget mean, unless an entry says otherwise."""
    batched = (
        load({"run.latency.batch": 8}).stage_graph().expanded_stages["assembled"].stage.operation
    )
    assert batched.latency.batch == 8
    own = load({"run.latency.batch": 8, "assembled.latency.batch": 2})
    assert own.stage_graph().expanded_stages["assembled"].stage.operation.latency.batch == 2
    bare = {"assembled.latency": None, "assembled.calibrate": 0}
    assert load(bare).stage_graph().expanded_stages["assembled"].stage.operation.latency is None
    asked = load({**bare, "assembled.budgets.latency_ms": 1.0, "run.latency.batch": 3})
    assert asked.stage_graph().expanded_stages["assembled"].stage.operation.latency.batch == 3


def test_parts_are_timed_added_up_and_corrected_by_whole_networks(load, make):
    record, made = make(load())
    labels = [label for label in made if "time " in label]
    assert len(labels) == len(timed(load()))
    library = Library(load().library)
    times = load().stage_graph().expanded_stages["assembled"].stage.operation.timed
    parts = record.facts["parts"]
    assert [p["name"] for p in parts] == ["stem", *record.facts["chosen"], "head"]
    assert (parts[0]["start"], parts[-1]["stop"]) == (0, 8)
    assert all(a["stop"] == b["start"] for a, b in itertools.pairwise(parts))
    assert all(a["leave"] == b["enter"] for a, b in itertools.pairwise(parts))
    for name in ("parameters", "flops"):
        assert sum(p["costs"][name] for p in parts) == record.figures[name]
    for part in parts[1:-1]:
        assert (
            part["costs"][LATENCY_METRIC]
            == library.record(times[part["name"]]).figures[LATENCY_METRIC]
        )
    summed = math.fsum(part["costs"][LATENCY_METRIC] for part in parts)
    assert record.figures["summed_latency_ms"] == summed
    assert record.figures[LATENCY_METRIC] > 0
    assert record.facts["calibration"]["assemblies"] == len(set(_first_paths(library, load())))
    for name in ("score", LATENCY_METRIC):
        told = record.facts["calibration"][name]
        assert told["after"]["mean_absolute_error"] >= 0
    whole, count = (
        record.facts["calibration"][LATENCY_METRIC],
        record.facts["calibration"]["assemblies"],
    )
    # Least squares do no worse than no correction at all, in squares.
    before = whole["before"]["mean_absolute_error"]
    assert whole["after"]["mean_absolute_error"] <= before * math.sqrt(count)


def _first_paths(library, experiment):
    parents = experiment.stage_graph().expanded_stages["assembled"].stage.parents
    first = [parent for parent in parents if "first" in parent.label]
    return [tuple(library.record(stage.key).facts["chosen"]) for stage in first]


def test_assemblies_to_calibrate_by_are_spread_and_shared_by_all_budgets(load, make):
    make(load())
    entry = load().stage_graph().expanded_stages["assembled"].stage
    first = [p for p in entry.parents if "first" in p.label]
    assert [p.operation.share for p in first] == [0.2, 0.4, 0.6, 0.8]
    sizes = [Library(load().library).record(p.key).figures["parameters"] for p in first]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 2
    other = load({"assembled.budgets.parameters": 4000, "assembled.rank": 2})
    record, made = make(other)
    assert made == ["assembled"]
    assert record.figures["parameters"] <= 4000
    assert "planned_loss" in record.figures


def test_first_assemblies_that_are_the_same_calibrate_nothing_and_say_so(load, make):
    """Where little can be chosen they coincide; a line is not fitted to fewer than three."""
    few = {"parts.candidates": ["kept"], "parts.widths": [1.0], "assembled.calibrate": 3}
    record, _ = make(load(few))
    assert record.facts["calibration"] == {"assemblies": 1}
    assert "planned_loss" not in record.figures


def test_too_few_assemblies_to_calibrate_by_are_a_mistake(load):
    with pytest.raises(ConfigError, match="needs 3 or more to fit a line, or 0, found 2"):
        load({"assembled.calibrate": 2})


def smallest(load):
    """The smallest latency that an assembly is expected to have, as the error of an impossible
    budget tells it."""
    experiment = load({"assembled.budgets.latency_ms": 1e-6})
    library = Library(experiment.library)
    stage = experiment.stage_graph().expanded_stages["assembled"].stage
    (reason,) = LocalBackend(experiment, library, EventDispatcher([])).build([stage]).values()
    assert "the budget of latency_ms (at most 1e-06) cannot be met" in reason
    return float(re.search(r"smallest feasible value is ([0-9.e-]+)", reason).group(1))


def test_a_budget_of_latency_is_kept_by_the_expected_sum(load, make):
    """Also the tightest, which an error has just named."""
    loose, _ = make(load({"assembled.budgets.latency_ms": 1000.0}))
    least = smallest(load)
    for most in (least, (least + loose.figures["planned_latency_ms"]) / 2):
        record, made = make(load({"assembled.budgets.latency_ms": most}))
        assert not [label for label in made if label.startswith("parts/")]
        assert record.figures["planned_latency_ms"] <= most
        found = record.figures[LATENCY_METRIC]
        beyond = {LATENCY_METRIC: {"found": found, "most": most, "least": None}}
        assert record.facts["over"] == (beyond if found > most else {})


def test_a_front_is_cheaper_point_by_point_and_its_files_launch(load, make, tmp_path):
    make(load())
    offered = propose_assemblies(load(), {}, count=5, trade_off_cost="parameters")
    sizes = [offer.costs["parameters"] for offer in offered.proposals]
    scores = [offer.score for offer in offered.proposals]
    assert sizes == sorted(set(sizes), reverse=True)
    assert scores == sorted(scores)
    files = write_proposals(load(), {}, offered.proposals, tmp_path)
    record, made = make(load_experiment(files[-1]))
    assert made == ["assembled"]
    assert record.figures["parameters"] == sizes[-1]


def test_a_plan_under_a_latency_is_offered_from_the_library(load, make, tmp_path):
    make(load())
    fastest = (
        propose_assemblies(load(), {}, count=1, trade_off_cost=LATENCY_METRIC)
        .proposals[-1]
        .costs[LATENCY_METRIC]
    )
    limits = {LATENCY_METRIC: Limit(max=1.5 * fastest)}
    found = propose_assemblies(load(), limits, count=2).proposals
    assert all(offer.costs[LATENCY_METRIC] <= 1.5 * fastest for offer in found)
    (file, *_) = write_proposals(load(), limits, found, tmp_path)
    record, _ = make(load_experiment(file))
    assert tuple(record.facts["chosen"]) == found[0].chosen
    assert LATENCY_METRIC in record.figures


def test_without_measured_parts_a_latency_budget_names_the_remedy(load, make):
    bare = {"assembled.latency": None, "assembled.calibrate": 0}
    make(load(bare))
    with pytest.raises(ConfigError, match=r"is not measured; give the entry that assembles"):
        propose_assemblies(load(bare), {LATENCY_METRIC: Limit(max=1.0)}, count=1)


def test_calibration_picks_the_model_that_foretells_best(load, make):
    """One factor for all, or one a kind: whichever ranks better what was left out."""
    make(load())
    known = propose_assemblies(load(), {}, count=1).cost_model
    losses = {
        path: 1.0 - r.figures["val_accuracy"] for path, r in known.measured_assemblies.items()
    }
    alike = calibrate(known.additive_edges, losses)
    apart = calibrate(
        known.additive_edges, losses, grouping=lambda e: e.name.partition(" ")[2] or e.name
    )
    better = (
        apart if apart.agreement_left_out.spearman > alike.agreement_left_out.spearman else alike
    )
    assert known.loss_calibration.model == better.model
    best = known.best_plans({}, count=1)[0]
    expected = best.score + known.loss_calibration.model.intercept
    assert known.expected_loss(best) == min(max(expected, 0.0), 1.0)


def test_threads_are_set_for_the_measurement_alone():
    before = torch.get_num_threads()
    seen = []

    class Looks(torch.nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    measure_latency(Looks(), (1,), threads=before + 1, warmup=1, repeats=2)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_costs_of_ends_are_those_of_the_whole(load, make):
    record, _ = make(load())
    images = 8.0  # mean and deviation of one channel, four bytes each
    parts = sum(part["costs"]["bytes"] for part in record.facts["parts"])
    assert record.figures["bytes"] == images + parts
