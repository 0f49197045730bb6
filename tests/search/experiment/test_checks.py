"""What only the end of a run would find is said before it begins."""

import copy

import pytest

from stillhouse.search.experiment.checks.ending import require_test_split
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.problems import ConfigError
from tests.support.experiments import FAST, LABELS, taught_student

TOLD = taught_student(
    "checked",
    training=FAST,
    limit=200,
)
READY = {"do": "prune", "start": "teacher", "training": FAST}


def refused(changes=None, **top):
    """The lines of the refusal, less the file; none where the experiment is valid."""
    try:
        load_experiment(copy.deepcopy({**TOLD, **top}), changes)
    except ConfigError as error:
        return [problem.message for problem in error.problems]
    return []


# What students are judged by

HALVES = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
YARDSTICK = {
    "data.validation": {"uniform": [0.1, 0.3]},
    "data.split_seed": {"integers": [0, 3]},
    "data.classes": {"choice": [[0, 1, 2], [0, 1, 2, 3]]},
    "data.merge": {"choice": [None, HALVES]},
    "data.resize": {"choice": [None, 16]},
    "student.data.validation": {"choice": [0.1, 0.3]},
    "student.data": {"choice": [{"validation": 0.3}, {"limit": 20}]},
}


@pytest.mark.parametrize("path", YARDSTICK)
def test_what_decides_the_validation_images_cannot_be_searched(path):
    own = {"student.data": {"validation": 0.2}} if path.startswith("student.data.") else {}
    (line,) = refused({"search": {path: YARDSTICK[path]}, **own})
    assert line.startswith(f"search.{path}: decides the validation images of students")


@pytest.mark.parametrize(
    ("path", "domain", "own"),
    [
        ("data.limit", {"choice": [50, 100]}, {}),
        ("data.augment.flip", "declared", {}),
        ("data.normalise", {"choice": [None, {"mean": [0.3], "std": [0.2]}]}, {}),
        ("student.data.limit", {"choice": [50, 100]}, {"student.data": {"limit": 20}}),
        # Where the student has a split of its own, the others' decides nothing.
        ("data.validation", {"choice": [0.1, 0.3]}, {"student.data": {"validation": 0.2}}),
    ],
)
def test_what_only_decides_the_training_images_can(path, domain, own):
    assert refused({"search": {path: domain}, **own}) == []


def test_a_folder_may_be_searched_where_all_hold_the_same():
    assert refused(search={"data.root": {"choice": ["here", "there"]}}) == []


def test_what_the_start_learnt_from_is_settled_where_forgetting_is_asked_for():
    first = {**TOLD["stages"]["teacher"], "data": {"classes": [0, 1]}}
    student = {"start": "first", "objective": LABELS, "training": FAST}
    stages = {"first": first, "student": {**student, "data": {"classes": [2, 3]}}}
    search = {"first.data.classes": {"choice": [[0, 1], [4, 5]]}}
    assert refused(stages=stages, search=search) == []
    (line,) = refused(stages=stages, search=search, goal={"minimize": "student.forgetting"})
    assert line.startswith("search.first.data.classes: decides the validation images")


def test_techniques_are_judged_by_the_same_images():
    techniques = {
        "other split": {"data.split_seed": 3, "student.training.lr": 0.1},
        "own split": {"student.data.validation": 0.3},
        "mixup": {"student.data.augment.mixup": 0.2},
    }
    named = {name.replace(" ", "_"): changes for name, changes in techniques.items()}
    lines = refused(factorial={"techniques": named})
    assert [line.partition(": ")[0] for line in lines] == [
        "factorial.techniques.other_split.data.split_seed",
        "factorial.techniques.own_split.student.data.validation",
    ]


# Figures that there will not be

READY_MADE = {"network": "cnn2", "objective": LABELS, "training": FAST}
FIGURES = [
    ("nonzero", {}, "a stage of kind 'train' has no nonzero; it has best_val_accuracy, bytes"),
    ("forgetting", {}, "forgetting needs start: <an entry> that was trained on other data"),
    ("val_task_accuracy", {}, "val_task_accuracy needs a subset of the classes; set data.classes"),
    ("val_agreement", {"student": READY_MADE}, "val_agreement needs a teacher"),
    ("nonzero", {"student": READY}, "a stage of kind 'train' has no nonzero; it has best"),
    (
        "val_agreement",
        {"student": {"do": "quantise", "start": "teacher", "how": "ptq"}},
        "val_agreement needs a teacher, and the student has none",
    ),
    (
        "train_loss",
        {"student": {"do": "quantise", "start": "teacher", "how": "ptq"}},
        "a stage of kind 'quantise' has no train_loss; it has bytes, flops, latency_ms, para",
    ),
    (
        "best_val_accuracy",
        {"student": {**READY, "objective": None}},
        "a stage of kind 'prune' has no best_val_accuracy; it has bytes, flops, latency_ms, non",
    ),
    (
        "val_accuracy",
        {"student": {"do": "invert", "teacher": "teacher", "images": 20}},
        "a stage of kind 'invert' has no val_accuracy; it has none that a goal can name",
    ),
    (
        "latency_ms",
        {"student": {"do": "invert", "teacher": "teacher", "images": 20}},
        "a stage of kind 'invert' has no latency_ms; it has none that a goal can name",
    ),
]


@pytest.mark.parametrize(("figure", "stages", "expected"), FIGURES)
@pytest.mark.parametrize("asked", ["goal", "limit"])
def test_a_figure_that_the_last_stage_does_not_make_is_refused(figure, stages, expected, asked):
    goal = {"maximize": f"student.{figure}"}
    if asked == "limit":
        first = "loss" if "invert" in expected else "parameters"
        goal = {"minimize": f"student.{first}", "subject_to": {f"student.{figure}": 1}}
    lines = refused(stages={**TOLD["stages"], **stages}, goal=goal)
    assert any(expected in line for line in lines), lines


def test_a_figure_that_some_searched_value_brings_may_be_asked_for():
    stages = {**TOLD["stages"], "student": {**READY, "objective": None}}
    search = {"student.objective": {"choice": [None, LABELS]}}
    goal = {"minimize": "student.train_loss"}
    assert refused(stages=stages, goal=goal, search=search) == []


@pytest.mark.parametrize("figure", ["train_loss", "parameters", "flops", "bytes", "latency_ms"])
def test_a_goal_that_needs_no_validation_split_needs_none(figure):
    goal = {"minimize": f"student.{figure}"}
    assert refused({"data.validation": 0}, goal=goal) == []


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_best_epoch_is_not_kept_without_one(name):
    changes = {"data.validation": 0, f"{name}.training.keep": "best"}
    (line,) = refused(changes, goal={"minimize": "student.train_loss"})
    assert f"stages.{name}.training.keep: best needs a validation split" in line
    search = {f"{name}.training.keep": {"choice": ["last", "best"]}}
    (line,) = refused({"data.validation": 0, "search": search}, goal={"minimize": "student.bytes"})
    assert "the value 'best' is not allowed: " in line


def test_a_factorial_compares_by_what_all_its_students_have():
    changes = {"factorial": {"techniques": {"mixup": {"student.data.augment.mixup": 0.2}}}}
    assert refused(changes) == []
    (line,) = refused(changes, goal={"maximize": "student.val_agreement"})
    assert "the student 'plain' has no val_agreement" in line


# The test split


@pytest.fixture
def sentences(tmp_path):
    """Data of texts in a folder, with these labels in its test split."""

    def written(labels):
        for part, of in (("train", [0, 1] * 30), ("test", labels)):
            rows = [f"{label},word{label} and more" for label in of]
            (tmp_path / f"{part}.csv").write_text("\n".join(["label,text", *rows]) + "\n")
        text = {"length": 4, "embedding": {"dimensions": 8}}
        text |= {} if labels else {"test": None}
        stages = {"student": {"network": "text_cnn", "objective": LABELS, "training": FAST}}
        data = {"source": {"text": text}, "root": str(tmp_path), "validation": 0.25}
        return load_experiment({**TOLD, "data": data, "stages": stages})

    return written


def test_a_winner_is_made_again_only_where_there_is_a_test_split(sentences):
    require_test_split(sentences([0, 1]))
    with pytest.raises(ConfigError, match=r"data\.source: text has no test split, but reuse meas"):
        require_test_split(sentences([]))
