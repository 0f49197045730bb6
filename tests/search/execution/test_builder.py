"""Stages are built once, resume at an epoch, and leave nothing behind when they fail."""

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.core.provenance import versions
from stillhouse.search.execution import builder as making
from stillhouse.search.execution.builder import MissingInput, build_stage, build_stages
from stillhouse.search.stages.core.stage import Operation, Stage, StageResult
from stillhouse.search.stages.ops.train import TrainNetwork

TIMED = {"seconds", "images_per_second"}


@pytest.fixture(autouse=True)
def _nothing_open():
    """Each test reads its parents from its own library."""
    making._OPEN_ARTIFACTS.clear()


@pytest.fixture
def work(monkeypatch):
    """The network and the number of parents of every stage that really runs."""
    ran = []
    run = TrainNetwork.run

    def counted(self, data, parents, bench):
        ran.append((self.network.label, len(parents)))
        return run(self, data, parents, bench)

    monkeypatch.setattr(TrainNetwork, "run", counted)
    return ran


@pytest.fixture
def chain(load):
    """A teacher, an assistant and a student: three stages, each the parent of the next."""
    return load().stage_graph()


def drain(stages, library):
    return list(build_stages(stages, library))


def untimed(figures):
    return {name: value for name, value in figures.items() if name not in TIMED}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Once


def test_a_chain_is_made_parents_first(chain, library, work):
    reports = drain([chain.student], library)
    assert [parents for _, parents in work] == [0, 1, 1]
    labels = [(stage.label, report["epoch"]) for stage, report in reports]
    assert labels == [
        (label, epoch)
        for label in ("teacher", "assistants/cnn6", "student")
        for epoch in (1.0, 2.0)
    ]
    assert set(library.keys()) == set(chain.keys_by_label.values())


def test_a_second_run_trains_nothing(chain, library, work):
    first = drain([chain.student], library)
    assert len(work) == 3
    for reader in (library, Library(library.uri)):
        again = drain([chain.student], reader)
        assert len(work) == 3
        assert [(s.label, r) for s, r in again] == [(s.label, r) for s, r in first[1::2]]


def test_what_another_chain_shares_is_not_made_again(load, library, work):
    drain([load({"assistants.networks": ["cnn6"]}).stage_graph().student], library)
    drain([load({"assistants.networks": ["cnn6", "cnn4"]}).stage_graph().student], library)
    assert len(work) == 3 + 2
    drain([load({"assistants.networks": []}).stage_graph().student], library)
    assert len(work) == 3 + 2 + 1


def test_a_record_tells_what_was_made_and_how(chain, library):
    drain([chain.student], library)
    record = library.record(chain.student.key)
    assert record.name == "student"
    assert record.kind == "train"
    assert record.parents == tuple(stage.key for stage in chain.student.parents)
    assert json.loads(json.dumps(record.identity)) == json.loads(json.dumps(chain.student.identity))
    assert [report["epoch"] for report in record.curve] == [1.0, 2.0]
    assert record.figures["val_accuracy"] == record.curve[-1]["val_accuracy"]
    assert record.figures["parameters"] == 374
    assert record.facts["data"]["classes"] == 10
    assert record.facts["threads"] == torch.get_num_threads()
    assert torch.__version__.startswith(record.facts["versions"]["torch"])
    assert record.facts["versions"] == dict(versions())
    assert record.seconds > 0


def test_what_is_kept_is_the_network_that_was_measured(chain, library):
    drain([chain.student], library)
    artifact = library.open_artifact(chain.student.key)
    scores = evaluate(
        load_network(artifact), open_data(chain.student.data), "validation", device="cpu"
    )
    assert scores["accuracy"] == artifact.record.figures["val_accuracy"]
    assert scores["nll"] == pytest.approx(artifact.record.figures["val_nll"], rel=1e-5)


def test_the_same_stage_made_twice_is_the_same_to_the_last_bit(chain, tmp_path):
    one, two = Library(str(tmp_path / "one")), Library(str(tmp_path / "two"))
    drain([chain.student], one)
    making._OPEN_ARTIFACTS.clear()
    drain([chain.student], two)
    for key in chain.keys_by_label.values():
        assert equal(one.open_artifact(key).tensors, two.open_artifact(key).tensors)
        assert one.record(key).payload == two.record(key).payload
        assert untimed(one.record(key).figures) == untimed(two.record(key).figures)


def test_published_weights_are_a_stage_that_trains_nothing(load, library, tmp_path):
    teacher = next(load().stage_graph().student.ancestors())
    drain([teacher], library)
    tensors = dict(library.open_artifact(teacher.key).tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "w.safetensors")
    weights = {"path": str(tmp_path / "w.safetensors")}
    ready = {"teacher.weights": weights, "teacher.objective": None}
    stage = next(load(ready).stage_graph().student.ancestors())
    assert stage.key != teacher.key
    assert len(drain([stage], library)) == 1
    figures = library.record(stage.key).figures
    for name in ("val_accuracy", "val_nll", "parameters"):
        assert figures[name] == pytest.approx(library.record(teacher.key).figures[name], rel=1e-5)


# Resumed


@pytest.mark.parametrize("epochs_done", [1, 3, 4])
@pytest.mark.parametrize(
    "training", [{}, {"optimizer": "adamw"}, {"ema": 0.9, "keep": "best"}], ids=str
)
def test_a_stage_goes_on_from_its_last_saved_epoch(load, tmp_path, training, epochs_done):
    changes = {f"student.training.{k}": v for k, v in {"epochs": 5, **training}.items()}
    recipe = load(changes).stage_graph()
    whole, broken = Library(str(tmp_path / "whole")), Library(str(tmp_path / "broken"))
    drain([recipe.student], whole)
    shutil.copytree(tmp_path / "whole" / "artifacts", tmp_path / "broken" / "artifacts")
    broken.remove_artifact(recipe.student.key)
    interrupted = build_stage(recipe.student, broken, save_interval_s=0.0)
    for _ in range(epochs_done):
        next(interrupted)
    interrupted.close()
    assert not broken.has(recipe.student.key)
    resumed = Library(broken.uri)
    assert len(resumed.load_scratch(recipe.student.key)) > 0
    seen = []
    run = build_stage(recipe.student, resumed)
    while (report := next(run, None)) is not None:
        seen.append(report)
    assert [report["epoch"] for report in seen] == [1.0, 2.0, 3.0, 4.0, 5.0]
    one, other = whole.open_artifact(recipe.student.key), resumed.open_artifact(recipe.student.key)
    assert equal(one.tensors, other.tensors)
    assert one.record.payload == other.record.payload
    assert untimed(one.record.figures) == untimed(other.record.figures)
    assert list(map(untimed, one.record.curve)) == list(map(untimed, other.record.curve))
    assert resumed.load_scratch(recipe.student.key) is None


def test_a_stage_saves_only_when_it_is_time(chain, library):
    teacher = chain.prerequisites[0]
    run = build_stage(teacher, library, save_interval_s=3600.0)
    next(run)
    run.close()
    assert library.load_scratch(teacher.key) is None


# Failed


class Breaks(Operation):
    """Reports twice, saves, and fails unless it has saved before."""

    kind: ClassVar[str] = "breaks"
    message: str = "the disk is on fire"

    @property
    def epochs(self):
        return 3

    def run(self, data, parents, context):
        yield {"epoch": 1.0}
        yield {"epoch": 2.0}
        raise ArithmeticError(self.message)


class Adds(Operation):
    """A stage with a known result: the sum of its parents, and its amount."""

    kind: ClassVar[str] = "adds"
    amount: float = 1.0

    def run(self, data, parents, context):
        total = sum(float(parent.tensors["sum"]) for parent in parents) + self.amount
        yield {"epoch": 1.0, "sum": total}
        return StageResult({"sum": torch.tensor(total)}, {"sum": total})


DATA = DataConfig.parse({"source": "digits"})


def adding(amount, *parents):
    return Stage(f"adds {amount}", Adds(amount=amount), DATA, parents)


def test_a_clock_that_is_set_back_changes_nothing(chain, library, monkeypatch):
    """Nor a clock that is set forward: a monotonic clock measures the seconds."""
    hours = itertools.cycle((0.0, 1e6, -1e6))
    monkeypatch.setattr(time, "time", lambda: 1.8e9 + next(hours))
    drain([chain.student], library)
    for record in library.records():
        assert 0 <= record.seconds < 1e5
        assert library.open_artifact(record.key).record == record


def test_a_stage_that_fails_leaves_nothing_behind(library):
    stage = Stage("breaks", Breaks(), DATA)
    with pytest.raises(ArithmeticError, match="the disk is on fire"):
        drain([stage], library)
    assert not library.has(stage.key)
    assert [p for p in Path(library.uri).rglob("*") if p.is_file()] == []


def test_what_rests_on_a_failed_stage_is_not_begun(library):
    sound, broken = adding(1.0), Stage("breaks", Breaks(), DATA)
    with pytest.raises(ArithmeticError):
        drain([adding(2.0, sound, broken)], library)
    assert list(library.keys()) == [sound.key]


def test_a_training_that_diverges_leaves_nothing_behind(load, library):
    stage = next(load({"teacher.training.lr": 1e30}).stage_graph().student.ancestors())
    with pytest.raises(RuntimeError, match="training diverged; try a smaller lr than 1e\\+30"):
        drain([stage], library)
    assert [p for p in Path(library.uri).rglob("*") if p.is_file()] == []


def test_a_parent_that_is_missing_is_named(library):
    one = adding(1.0)
    with pytest.raises(MissingInput, match=r"adds 1\.0: ") as caught:
        list(build_stage(adding(2.0, one), library))
    assert caught.value.key == one.key


def test_any_kind_of_work_is_made_the_same_way(library):
    one = adding(1.0)
    two, four = adding(2.0, one), adding(4.0, one)
    both = adding(0.5, two, four)
    reports = drain([both], library)
    assert [stage.label for stage, _ in reports] == ["adds 1.0", "adds 2.0", "adds 4.0", "adds 0.5"]
    assert library.record(both.key).figures == {"sum": 8.5}


# Damaged


def test_a_damaged_parent_is_made_again_and_what_rests_on_it_stays(load, library, work):
    recipe = load().stage_graph()
    teacher, assistant = recipe.prerequisites
    drain([assistant], library)
    before = library.record(assistant.key).plain()
    payload = next(Path(library.uri, "artifacts", teacher.key[:2]).rglob("*.safetensors"))
    payload.write_bytes(payload.read_bytes()[:-8])
    making._OPEN_ARTIFACTS.clear()
    del work[:]
    other = load({"assistants.networks": []}).stage_graph().student
    fresh = Library(library.uri)
    drain([other], fresh)
    assert [parents for _, parents in work] == [0, 1]
    assert fresh.has(other.key)
    assert (
        fresh.open_artifact(teacher.key).record.payload.sha256
        == library.record(teacher.key).payload.sha256
    )
    assert Library(library.uri).record(assistant.key).plain() == before
    assert equal(
        fresh.open_artifact(assistant.key).tensors, library.open_artifact(assistant.key).tensors
    )


def test_a_damaged_link_is_made_again_from_its_own_parents(library):
    one = adding(1.0)
    two = adding(2.0, one)
    drain([two], library)
    next(Path(library.uri, "artifacts", two.key[:2]).rglob("*.safetensors")).write_bytes(b"")
    making._OPEN_ARTIFACTS.clear()
    three = adding(3.0, two)
    labels = [stage.label for stage, _ in drain([three], Library(library.uri))]
    assert labels[-2:] == ["adds 2.0", "adds 3.0"]
    assert Library(library.uri).record(three.key).figures == {"sum": 6.0}
    damaged = [p for p in Path(library.uri, "damaged").rglob("*") if p.is_file()]
    assert len(damaged) == 2


def test_a_whole_lineage_that_is_gone_is_made_again(library):
    """The reader still caches the records of artifacts that another process has removed."""
    one = adding(1.0)
    two = adding(2.0, one)
    drain([two], library)
    shutil.rmtree(Path(library.uri, "artifacts"))
    making._OPEN_ARTIFACTS.clear()
    three = adding(3.0, two)
    drain([three], library)
    assert Library(library.uri).record(three.key).figures == {"sum": 6.0}
