"""``do: distil_data``: from its key to a student that takes the steps, and the picture of it."""

from __future__ import annotations

import copy
import html

import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import embedding_table
from stillhouse.methods.core.synthesis.distilling.distilled_set import (
    DistilledSet,
    train_on_distilled,
)
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.search.artifacts.store import Library
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.report import write_report
from stillhouse.search.report.pictures import distilled as drawn
from stillhouse.search.results.outcome import Outcome, TrialResult
from stillhouse.search.stages.ops.train import new_network
from stillhouse.spaces.config.problems import ConfigError

FAST = {"epochs": 1, "batch_size": 32, "lr": 0.05}
SMALL = {"lenet5": {"width": 0.25}}
TOLD = {
    "name": "distilled",
    "data": {"source": "digits", "resize": 12, "limit": 300},
    "stages": {
        "few": {
            "do": "distil_data",
            "network": SMALL,
            "examples": 5,
            "passes": 2,
            "iterations": 6,
            "batch_size": 32,
            "rate": 0.1,
        },
        "student": {"network": SMALL, "data": {"distilled": "few"}, "few_steps": True},
    },
}


def loaded(student=None, few=None, **changes):
    told = copy.deepcopy(TOLD)
    told["stages"]["student"].update(student or {})
    told["stages"]["few"].update(few or {})
    return load_experiment(told, changes)


def laid_out(student=None, few=None):
    return loaded(student, few).stage_graph().student


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stages, and the library that holds what they made."""
    student, library = laid_out(), Library(str(tmp_path_factory.mktemp("library")))
    for _ in build_stages([student], library):
        pass
    return student, library


def test_a_student_takes_the_steps_that_were_distilled(made):
    student, library = made
    (few,) = student.parents
    found = library.open_artifact(few.key)
    assert found.tensors["images"].shape == (5, 1, 12, 12)
    assert found.tensors["labels"].shape == (5, 10)
    assert found.tensors["rates"].shape == (2,)
    assert len(found.record.curve) == few.operation.epochs == 6
    # The same seed starts the same network, so it comes to what distilling said.
    figures = library.record(student.key).figures
    for name in ("val_accuracy", "val_nll"):
        assert figures[name] == pytest.approx(found.record.figures[name], rel=1e-6)
    assert figures["parameters"] > found.record.figures["examples"] == 5


def test_on_the_test_split_it_is_the_same_network(made):
    student, library = made
    few = library.open_artifact(student.parents[0].key).tensors
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = new_network(student.operation.network, student.data)
    train_on_distilled(network, DistilledSet(few["images"], few["labels"], few["rates"]), steps=1)
    learnt = library.open_artifact(student.key).tensors
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(learnt[name], weight)
    assert evaluate(network, open_data(student.data), "test", device="cpu")["accuracy"] >= 0


ORDINARY = {"few_steps": False, "objective": {"cross_entropy": {}}, "training": FAST}


def test_ordinary_epochs_learn_from_soft_labels(made):
    _, library = made
    student = laid_out(student=ORDINARY)
    for _ in build_stages([student], library):
        pass
    record = library.record(student.key)
    assert student.parents[0].key == made[0].parents[0].key
    assert "train_cross_entropy" in record.figures


def test_data_distilled_is_images_said_otherwise():
    said = laid_out(student={"data": None, "images": "few"})
    assert said.key == laid_out().key
    searched = loaded().stage_graph({"student.data": {"distilled": "few"}}).student
    assert searched.key == said.key


def test_keys_follow_what_decides_the_examples():
    changes = (
        {},
        {"examples": 6},
        {"steps": 2},
        {"passes": 3},
        {"rate": 0.2},
        {"classes": [3, 7]},
        {"images": "means"},
        {"labels": "hard"},
        {"label_start": "zeros"},
        {"label_scale": 2.0},
        {"start": "random"},
        {"start": "random", "networks": 2},
        {"iterations": 7},
        {"batch_size": 33},
        {"lr": 0.02},
        {"halvings": 1},
        {"seed": 1},
        {"network": {"lenet5": {"width": 0.5}}},
    )
    assert len({laid_out(few=change).parents[0].key for change in changes}) == len(changes)
    fixed = laid_out(few={"networks": 9, "judged_on": 9}).key
    assert fixed == laid_out().key  # of fresh networks alone


def test_few_steps_left_out_is_no_part_of_a_key():
    assert "few_steps" not in laid_out(student=ORDINARY).identity["work"]
    assert laid_out().identity["work"]["few_steps"] is True


def test_a_repetition_distils_anew_for_its_own_first_network():
    recipe = loaded().stage_graph(seed_offset=1)
    assert recipe.student.operation.seed == recipe.student.parents[0].operation.seed == 1


def test_ranges_are_declared():
    names = ("examples", "steps", "passes", "rate")
    search = {f"few.{name}": "declared" for name in names}
    found = loaded(**{"search": search, "goal": {"maximize": "student.val_accuracy"}}).search
    assert [found[f"few.{name}"] for name in names] == [Distilling.search_space()[n] for n in names]


def test_a_plan_knows_how_long_it_takes(tmp_path):
    def seconds(**few):
        planned = plan_search(loaded(few=few, library=str(tmp_path)), slots=1)
        (stage,) = planned.stages
        assert (stage.kind, stage.label, stage.there) == ("distil_data", "few", False)
        return stage.seconds

    assert seconds(iterations=100_000) > 10 * seconds(iterations=1_000) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"few": {"network": "cnn2"}}, "few.network: has batch norm .*such as lenet5"),
        ({"few": {"classes": [10]}}, "few.classes: contains 10, but classes are 0 to 9"),
        ({"few": {"iterations": 0}}, "few.iterations"),
        ({"student": {"few_steps": "False"}}, "student.few_steps: .*boolean"),
        ({"student": {"images": "few"}}, "images: cannot be combined with data.distilled"),
        ({"student": {"data": None}}, "few_steps: needs data: {distilled: ENTRY}"),
        (
            {"student": {"objective": {"cross_entropy": {}}}},
            "objective: cannot be combined with few",
        ),
        ({"student": {"data": {"distilled": "nobody"}}}, "nobody"),
        ({"student": {"network": "cnn2"}}, "student.network: has batch norm"),
        (
            {"student": {**ORDINARY, "objective": {"guided": {}}, "teachers": ["few"]}},
            "teachers: few is a distil_data, no network",
        ),
        (
            {"student": {**ORDINARY, "data": {"distilled": "few", "resize": 16}}},
            "images: the shape of few's images",
        ),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes, message):
    with pytest.raises(ConfigError, match=message):
        laid_out(**changes)


def test_the_best_needs_a_split_to_be_told_by():
    with pytest.raises(ConfigError, match=r"few\.keep: best needs a validation split"):
        loaded(few={"keep": "best"}, **{"data.validation": 0}).stage_graph()


def test_methods_that_need_hard_labels_are_refused():
    told = copy.deepcopy(TOLD)
    teacher = {"network": "cnn2", "objective": {"cross_entropy": {}}, "training": FAST}
    objective = {"cross_entropy": {}, "decoupled": {}}
    told["stages"]["student"] |= {**ORDINARY, "objective": objective, "teachers": ["teacher"]}
    told["stages"] = {"teacher": teacher, **told["stages"]}
    with pytest.raises(ConfigError, match=r"decoupled: needs hard labels, .* use cross_entropy"):
        load_experiment(told).stage_graph()


def outcome_of(stages, library):
    records = {stage.key: library.record(stage.key) for stage in stages.ancestors()}
    keys = {stage.label: stage.key for stage in stages.ancestors()}
    figures = dict(records[stages.key].figures)
    return Outcome(
        "distilled-1",
        (Goal("val_accuracy", True),),
        (TrialResult(0, "finished", {}, keys, figures),),
        (),
        records,
        {key: record.name for key, record in records.items()},
        frozenset(records),
        frozenset(),
        {},
        1.0,
    )


def test_the_report_shows_examples_and_labels(made, tmp_path):
    student, library = made
    outcome, few = outcome_of(student, library), student.parents[0]
    tensors = library.open_artifact(few.key).tensors
    picture = drawn.draw(outcome, {few.key: tensors})
    images, bars = picture.figure.axes[0::2], picture.figure.axes[1::2]
    assert len(images) == len(bars) == 5
    for place, axes in enumerate(bars):
        heights = torch.tensor([bar.get_height() for bar in axes.patches])
        torch.testing.assert_close(heights, tensors["labels"][place], check_dtype=False)
    shown = torch.tensor(images[2].images[0].get_array().data)
    grey = tensors["images"][2, 0].double()
    wanted = (grey - grey.min()) / (grey.max() - grey.min())
    torch.testing.assert_close(shown, wanted, check_dtype=False)
    assert "5 examples" in picture.caption
    files = write_report(outcome, TOLD, tmp_path, tensors={few.key: tensors})
    assert {"distilled.svg", "distilled.png"} <= {file.name for file in files}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Distilled data" in text


def test_there_is_no_picture_without_tensors(made):
    student, library = made
    assert drawn.draw(outcome_of(student, library), {}) is None


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Sentences told by their words: an LSTM's stages, its like by epochs, and their library."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    kinds = ("<b>dull", "great & good")
    lines = [f"{kinds[row % 2]} w{row % 5},{('neg', 'pos')[row % 2]}" for row in range(60)]
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    told = copy.deepcopy(TOLD)
    text = {"length": 40, "token": r"\S+", "embedding": {"dimensions": 6}}
    told["data"] = {"source": {"text": text}, "root": str(tmp_path), "validation": 0.25}
    for entry in told["stages"].values():
        entry["network"] = {"bilstm": {"hidden": 3}}
    told["stages"]["few"] |= {"examples": 3, "iterations": 2}
    student = load_experiment(told).stage_graph().student
    told["stages"]["student"] |= ORDINARY
    ordinary = load_experiment(told).stage_graph().student
    library = Library(str(tmp_path / "library"))
    for _ in build_stages([student, ordinary], library):
        pass
    return student, ordinary, library


def test_sentences_are_kept_and_shown_in_the_nearest_words(read, tmp_path):
    student, ordinary, library = read
    few = library.open_artifact(student.parents[0].key)
    assert ordinary.parents[0].key == student.parents[0].key
    assert "train_cross_entropy" in library.record(ordinary.key).figures
    tensors, said = few.tensors, few.record.facts["sentences"]
    assert tensors["images"].shape == (3, 6, 40, 1)
    found = few.record.figures["val_accuracy"]
    assert library.record(student.key).figures["val_accuracy"] == pytest.approx(found)
    whole = embedding_table(student.data).nearest_words(tensors["images"])
    assert said == [" ".join(sentence.split()[:30]) for sentence in whole]
    assert {word for sentence in said for word in sentence.split()} <= set(
        embedding_table(student.data).vocabulary.words
    )
    outcome = outcome_of(student, library)
    picture = drawn.draw(outcome, {few.record.key: tensors})
    bars = picture.figure.axes
    assert len(bars) == len(picture.figure.texts) == 3
    for place, axes in enumerate(bars):
        heights = torch.tensor([bar.get_height() for bar in axes.patches])
        torch.testing.assert_close(heights, tensors["labels"][place], check_dtype=False)
        assert picture.figure.texts[place].get_text().split()[:5] == said[place].split()[:5]
    assert "3 sentences in the nearest words" in picture.caption
    write_report(outcome, TOLD, tmp_path, tensors={few.record.key: tensors})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for sentence, label in zip(said, tensors["labels"].tolist(), strict=True):
        assert f"<td>{html.escape(sentence)}</td>" in text
        assert f'<td class="number">{label[0]:.2f}</td>' in text
    assert '<th class="number">neg</th>' in text


def test_records_of_images_hold_no_sentences(made):
    student, library = made
    assert "sentences" not in library.record(student.parents[0].key).facts
