"""What each operation computes, in figures: they change only where its version rises.

Beside the goldens of the methods (tests/methods/test_golden.py), which fix single losses, these fix
what a whole stage makes: its figures and the size of its tensors, on tiny data, in float32 and on
one thread. Where a change is meant: raise ``version`` of the work, then run this file as a program
(``python tests/search/test_golden_operations.py``), which writes
``tests/goldens/operations.json`` anew.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import stillhouse.search as package
from stillhouse.search.artifacts.store import Library
from stillhouse.search.evaluation.diagnosis import DiagnoseTeacher
from stillhouse.search.evaluation.seed_variance import MeasureVariance
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.stages.core.stage import Operation, Stage

FOLDER = Path(__file__).parents[1] / "goldens"
FILE = FOLDER / "operations.json"
TIMES = {"latency"}
"""Kinds of work whose figures are seconds."""
UNTOLD = {"seconds", "images_per_second"}
COARSE = {"quantise": 2e-2}
"""Rounding to few bits makes much of a last bit that machines compute differently."""
FINE = 5e-4
IMAGE = 0.05
"""Of accuracies and calibration: a few of a few dozen validation images."""

FAST = {"epochs": 2, "batch_size": 32, "lr": 0.02, "precision": "float32"}
ONCE = {**FAST, "epochs": 1}
LABELS = {"cross_entropy": {}}
TAUGHT = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5, "temperature": 2.0}}
TEACHER = {"network": {"cnn4": {"width": 0.5}}, "objective": LABELS, "training": FAST}
DEEP = {"network": {"resnet8": {"width": 0.5}}, "objective": LABELS, "training": FAST}
SMALL = {"cnn2": {"width": 0.5}}
LENET = {"lenet5": {"width": 0.25}}
FEW = {"do": "distil_data", "network": LENET, "examples": 3, "passes": 2, "iterations": 4,
       "batch_size": 32, "rate": 0.1}  # fmt: skip
SIXTEEN = {"resize": 16}


def parts(**told: Any) -> dict[str, Any]:
    """A network assembled of neighbourhoods."""
    return {
        "teacher": DEEP,
        "parts": {
            "do": "neighbourhoods",
            "teacher": "teacher",
            "candidates": ["kept", "ghost"],
            "longest": 1,
            "training": ONCE,
            **told,
        },
        "student": {
            "do": "assemble",
            "neighbourhoods": "parts",
            "recalibrate": 2,
            "budgets": {"parameters": 12000},
        },
    }


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "train by labels": ({}, {"student": TEACHER}),
    "train by a teacher": (
        {},
        {
            "teacher": TEACHER,
            "student": {
                "network": SMALL,
                "teachers": ["teacher"],
                "objective": TAUGHT,
                "training": {**FAST, "optimizer": "adamw", "lr": 0.005, "ema": 0.9, "clip": 1.0},
            },
        },
    ),
    "train on, on other classes": (
        {"validation": 0.2},
        {
            "first": {**TEACHER, "data": {"classes": [0, 1, 2, 3, 4]}},
            "student": {
                "start": "first",
                "teachers": ["first"],
                "objective": {**LABELS, "previous_classes": {"classes": [0, 1, 2, 3, 4]}},
                "training": ONCE,
                "data": {"classes": [5, 6, 7, 8, 9]},
            },
        },
    ),
    "train with subclasses, augmented": (
        {"augment": {"crop": 1, "flip": True, "mixup": 0.2}},
        {
            "student": {
                "network": SMALL,
                "subclasses": 2,
                "objective": LABELS,
                "training": {**FAST, "keep": "best", "lr": 0.1, "epochs": 3},
            }
        },
    ),
    "peers": (
        {},
        {
            "student": {
                "do": "peers",
                "network": SMALL,
                "peers": [SMALL, {"cnn4": {"width": 0.5}}],
                "objective": {"cross_entropy": {}, "soft_targets": {"temperature": 1.0}},
                "training": FAST,
            }
        },
    ),
    "heads": (
        SIXTEEN,
        {
            "teacher": DEEP,
            "headed": {"do": "heads", "teacher": "teacher", "training": FAST},
            "student": {
                "network": {"resnet8": {"width": 0.25}},
                "teachers": ["headed"],
                "objective": {"heads": {}},
                "training": ONCE,
            },
        },
    ),
    "neighbourhoods": (SIXTEEN, parts(widths=[1.0, 0.5])),
    "neighbourhoods from noise": (SIXTEEN, parts(inputs="noise")),
    "neighbourhoods from statistics": (SIXTEEN, parts(inputs="statistics")),
    "prune channels": (
        SIXTEEN,
        {
            "teacher": DEEP,
            "student": {"do": "prune", "start": "teacher", "sparsity": 0.25, "training": ONCE},
        },
    ),
    "prune weights": (
        SIXTEEN,
        {
            "teacher": DEEP,
            "student": {"do": "prune", "start": "teacher", "how": "weights", "objective": None},
        },
    ),
    "quantise": (
        SIXTEEN,
        {"teacher": DEEP, "student": {"do": "quantise", "start": "teacher", "training": ONCE}},
    ),
    "quantise after training": (
        SIXTEEN,
        {
            "teacher": DEEP,
            "student": {"do": "quantise", "start": "teacher", "how": "ptq", "bits": 4},
        },
    ),
    "invert": (
        {},
        {
            "teacher": TEACHER,
            "dreamt": {
                "do": "invert",
                "teacher": "teacher",
                "images": 20,
                "batch_size": 10,
                "steps": 3,
            },
            "student": {
                "network": SMALL,
                "images": "dreamt",
                "teachers": ["teacher"],
                "objective": TAUGHT,
                "training": ONCE,
            },
        },
    ),
    "distil data": (
        {"resize": 12},
        {
            "few": FEW,
            "student": {"network": LENET, "data": {"distilled": "few"}, "few_steps": True},
        },
    ),
    "distil data for fresh networks": (
        {"resize": 12},
        {
            "few": {**FEW, "start": "random", "networks": 2, "labels": "hard"},
            "student": {
                "network": LENET,
                "data": {"distilled": "few"},
                "objective": LABELS,
                "training": ONCE,
            },
        },
    ),
}
MEASURED = ("variance", "diagnosis")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A library in which cases find the teachers of others."""
    return Library(str(tmp_path_factory.mktemp("library")))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stages_of(case: str) -> list[Stage]:
    if case in MEASURED:
        teacher = stages_of("train by labels")[0]
        other = Stage("other", teacher.operation.replica(1), teacher.data)
        work, taken = {
            "variance": (MeasureVariance(), (teacher, other)),
            "diagnosis": (DiagnoseTeacher(), (teacher,)),
        }[case]
        return list(Stage(case, work, teacher.data, taken).ancestors())
    data, stages = CASES[case]
    told = {
        "name": "golden",
        "data": {"source": "digits", "limit": 64, **data},
        "stages": stages,
        "run": {"repeats": {"top": 0}, "baselines": False},
    }
    return list(load_experiment(told).stage_graph().student.ancestors())


def figures_of(stage: Stage, library: Library) -> dict[str, float]:
    """All that a stage left, as numbers."""
    made = library.open_artifact(stage.key)
    found = {name: value for name, value in made.record.figures.items() if name not in UNTOLD}
    for number, report in enumerate(made.record.curve, start=1):
        told = {name: value for name, value in report.items() if name not in UNTOLD}
        found |= {f"{number} {name}": value for name, value in told.items()}
    numbers = [t.dequantize() if t.is_quantized else t for t in made.tensors.values()]
    found["tensors"] = float(len(numbers))
    found["elements"] = float(sum(t.numel() for t in numbers))
    found["sum of sizes"] = sum(t.double().abs().sum().item() for t in numbers)
    return found


def computed(case: str, library: Library) -> dict[str, dict[str, Any]]:
    """Label of each stage -> its kind, its version and its figures."""
    stages = stages_of(case)
    list(build_stages([stages[-1]], library))
    return {
        stage.label: {
            "kind": stage.operation.kind,
            "version": stage.operation.version,
            "figures": figures_of(stage, library),
        }
        for stage in stages
    }


def tolerance(kinds: set[str], name: str) -> dict[str, float]:
    """How far a figure may be off on another machine."""
    coarse = max((COARSE.get(kind, FINE) for kind in kinds), default=FINE)
    counted = any(
        word in name for word in ("accuracy", "ece", "agreement", "subclass", "best_epoch")
    )
    return {"rel": coarse, "abs": IMAGE if counted else coarse / 100}


@cache
def recorded() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


@pytest.mark.parametrize("case", [*CASES, *MEASURED])
def test_an_operation_makes_what_it_made(case, shared):
    assert case in recorded(), f"no golden: run this file as a program to add {case}"
    golden, now = recorded()[case], computed(case, shared)
    assert now.keys() == golden.keys()
    kinds: set[str] = set()
    for label, told in golden.items():
        made = now[label]
        kinds.add(made["kind"])
        assert (made["kind"], made["version"]) == (told["kind"], told["version"]), label
        assert made["figures"].keys() == told["figures"].keys(), label
        for name, value in told["figures"].items():
            limits = tolerance(kinds, name)
            assert made["figures"][name] == pytest.approx(value, **limits), (
                f"{label}: {name} changed; raise the version of {made['kind']}"
            )


def works(base: type[Operation] = Operation) -> Iterator[type[Operation]]:
    """Every class of work in the product, and not those of other tests."""
    own = str(Path(package.__path__[0]).resolve())
    for cls in base.__subclasses__():
        file = importlib.import_module(cls.__module__).__file__ or ""
        if cls.kind and str(Path(file).resolve()).startswith(own):
            yield cls
        yield from works(cls)


def test_every_operation_has_goldens():
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    golden = {told["kind"] for case in recorded().values() for told in case.values()}
    assert golden == {cls.kind for cls in works()} - TIMES
    assert set(recorded()) == {*CASES, *MEASURED}


def write() -> None:
    """Write the goldens anew."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        library = Library(folder)
        found = {case: computed(case, library) for case in (*CASES, *MEASURED)}
    lines = []
    for case, stages in found.items():
        inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in stages.items())
        lines.append(f"{json.dumps(case)}: {{\n{inner}\n}}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write()
