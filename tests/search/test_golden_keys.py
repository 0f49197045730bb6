"""A stage's key is where its result lies in every library: it must not change unnoticed.

Whoever moves or renames code finds all keys as they were. Where a key is meant to change (a new
version of some mathematics, or of a method), run this file as a program
(``python tests/search/test_golden_keys.py``): it names the stages whose keys change, and writes
``tests/goldens/stage_keys.json`` anew. Libraries of users then make those stages once more.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import stillhouse.search as package
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.sources import SOURCES
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.search.artifacts.store import Library
from stillhouse.search.evaluation.baselines import make_baselines
from stillhouse.search.evaluation.diagnosis import DiagnoseTeacher
from stillhouse.search.evaluation.factorial import factorial_cells
from stillhouse.search.evaluation.finalists import build_finalist
from stillhouse.search.evaluation.seed_variance import MeasureVariance
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.stages.core.config import STAGE_KINDS
from stillhouse.search.stages.core.stage import Operation, Replicable, Stage
from stillhouse.search.stages.expansion.prerequisites import replica_of
from stillhouse.search.stages.ops.latency import MeasureLatency
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.blocks import BLOCKS
from stillhouse.spaces.config.base import canonical_json, fingerprint
from stillhouse.spaces.latency import LatencySettings
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.networks import FAMILIES, sizes

FOLDER = Path(__file__).parents[1] / "goldens"
FILE = FOLDER / "stage_keys.json"
RECIPES = FOLDER / "recipes.yaml"
REGENERATE = "if that is meant, run this file as a program"
DIGITS = DataConfig.parse({"source": "digits", "limit": 100})
LABELS = Objective.parse({"cross_entropy": {}})
TIMED = LatencySettings(hardware="golden")
TORCH = "2.99.0+golden"
"""Latencies name torch's version and the hardware, which differ from machine to machine."""


@pytest.fixture(autouse=True)
def _same_everywhere(tmp_path, monkeypatch):
    """Nothing of this machine reaches a key."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch, "__version__", TORCH)


def experiments() -> dict[str, dict]:
    """The experiments of the recipes, as plain data."""
    text = RECIPES.read_text(encoding="utf-8").replace("DATA", str(FOLDER / "data"))
    told = yaml.safe_load(text)
    return {
        name: {"name": "golden", **told["base"], **each}
        for name, each in told["experiments"].items()
    }


def of_recipe(name: str) -> list[Stage]:
    return list(load_experiment(experiments()[name]).stage_graph().student.ancestors())


def of_repeat(name: str) -> list[Stage]:
    """The same recipe as it is repeated over seeds."""
    return list(load_experiment(experiments()[name]).stage_graph(seed_offset=2).student.ancestors())


def of_method(name: str) -> list[Stage]:
    """A student that learns by one method at its defaults, and what that brings."""
    entry = {"network": "resnet8", "objective": {"cross_entropy": {}}}
    objective = {"previous_classes": {"classes": [0, 1]}}.get(name, {})
    taught = METHODS.load(name).needs_teacher
    student = {"network": "resnet8", "objective": {name: objective}, "subclasses": 5}
    if not (METHODS.load(name).needs_subclasses or name == "subclasses"):
        del student["subclasses"]
    student |= {"teachers": ["teacher"]} if taught else {}
    stages = {"teacher": entry, "student": student}
    told = {"name": "golden", "data": {"source": "digits", "resize": 16}, "stages": stages}
    return list(load_experiment(told, read_only=True).stage_graph().student.ancestors())


def of_network(name: str) -> list[Stage]:
    network = NetworkSpec.parse(name)
    return [Stage("student", TrainNetwork(network=network, objective=LABELS), DIGITS)]


def of_block(name: str) -> list[Stage]:
    """The latency of a block in its place, whose key holds the layers of which it is built."""
    block = BlockSpec.parse(name)
    for start, stop in ((1, 2), (0, 2), (0, 1), (3, 5)):
        work = MeasureLatency(
            network=NetworkSpec.parse("resnet14"), shape=(1, 16, 16), classes=10, part="piece",
            start=start, stop=stop, block=block, how=TIMED,
        )  # fmt: skip
        stage = Stage(f"{name} {start}-{stop}", work, DIGITS)
        try:
            assert stage.key
        except (ValueError, KeyError):
            continue
        return [stage]
    raise AssertionError(f"no place for {name}")


def of_end(name: str) -> list[Stage]:
    """The latency of the first and the last part of a network family, alike."""
    network = NetworkSpec.parse(FIRST_SIZES[name])
    shape = (12, 16, 1) if FAMILIES.load(name).input_form == "text" else (3, 32, 32)
    how = {"network": network, "shape": shape, "classes": 10, "how": TIMED}
    return [
        Stage(part, MeasureLatency(part=part, **how), DIGITS)  # type: ignore[arg-type]
        for part in ("stem", "head")
    ]


def of_search(name: str) -> list[Stage]:
    """Stages that no recipe names, made around a search."""
    return list(AROUND[name]())


def _compared() -> Iterator[Stage]:
    experiment = load_experiment({**experiments()["chain"], "run": {"trials": 1}})
    best = build_finalist("trial 0", experiment, {}, (1, 2), {})
    with tempfile.TemporaryDirectory() as folder:
        for each in make_baselines(experiment, best, Library(folder)):
            yield from (recipe.student for recipe in each.graphs.values())


def _factorial() -> Iterator[Stage]:
    techniques = {"smooth": {"student.objective.cross_entropy.label_smoothing": 0.1}}
    told = {**experiments()["taught"], "factorial": {"techniques": techniques, "seeds": 2}}
    for cell in factorial_cells(load_experiment(told)):
        yield from (recipe.student for recipe in cell.graphs.values())


def _screened() -> Iterator[Stage]:
    told = {**experiments()["distil data for fresh networks"]}
    entry = {"network": "lenet5", "objective": {"cross_entropy": {}, "soft_targets": {}}}
    teacher = {"network": "lenet5", "objective": {"cross_entropy": {}}}
    stages = {"few": told["stages"]["few"], "teacher": teacher}
    told["stages"] = {**stages, "student": {**entry, "teachers": ["teacher"]}}
    told["search"] = {"student.training.lr": {"choice": [0.1, 0.2]}}
    told["goal"] = {"maximize": "student.val_accuracy"}
    told["run"] = {"screen": {"stage": "few", "epochs": 3}}
    yield screen_student(load_experiment(told), {"student.training.lr": 0.2})


def _again() -> Iterator[Stage]:
    for name in ("heads", "distil data", "peers"):
        for stage in of_recipe(name):
            if isinstance(stage.operation, Replicable) and stage.operation.replica(1):
                yield replica_of(stage, 1)


def _measured() -> Iterator[Stage]:
    made = of_recipe("labels")[0]
    other = replace(made, operation=made.operation.replica(1))
    yield Stage("variance", MeasureVariance(), made.data, (made, other))
    yield Stage("diagnosis", DiagnoseTeacher(temperature=3.0), made.data, (made,))


AROUND = {
    "baselines": _compared,
    "factorial": _factorial,
    "screen": _screened,
    "made again": _again,
    "measured": _measured,
}
FIRST_SIZES = {family: name for name, (family, _) in reversed(sizes().items())}
GROUPS = {
    "recipe": (of_recipe, tuple(experiments())),
    "repeat": (of_repeat, tuple(experiments())),
    "method": (of_method, METHODS.names()),
    "network": (of_network, tuple(sizes())),
    "block": (of_block, BLOCKS.names()),
    "end": (of_end, FAMILIES.names()),
    "search": (of_search, tuple(AROUND)),
}
CASES = [f"{group}: {name}" for group, (_, names) in GROUPS.items() for name in names]


def stages_of(case: str) -> list[Stage]:
    group, _, name = case.partition(": ")
    return GROUPS[group][0](name)


def keys_of(stages: list[Stage]) -> list[list[str]]:
    return [[stage.label, stage.key] for stage in stages]


@cache
def recorded() -> dict[str, dict]:
    """``cases``: case -> label and key of each stage; ``identities``: key -> identity."""
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return {"cases": {}, "identities": {}, **found}


def changed(now: list[Stage], before: list[list[str]]) -> Iterator[str]:
    """What of the stages is not as it was, one line each."""
    if (labels := [stage.label for stage in now]) != [label for label, _ in before]:
        yield f"stages were {[label for label, _ in before]}, are {labels}"
    for stage, (label, key) in zip(now, before, strict=False):
        if stage.key != key:
            was = canonical_json(recorded()["identities"].get(key))
            yield f"{label} was {key}, is {stage.key}\n  {was}\n  {canonical_json(stage.identity)}"


@pytest.mark.parametrize("case", CASES)
def test_a_stage_has_the_key_that_it_had(case):
    assert case in recorded()["cases"], f"no golden: run this file as a program to add {case}"
    stages = stages_of(case)
    told = "\n".join(changed(stages, recorded()["cases"][case]))
    assert not told, f"{case}: keys change, so libraries lose these stages; {REGENERATE}\n{told}"
    for stage in stages:
        assert canonical_json(stage.identity) == canonical_json(
            recorded()["identities"][stage.key]
        ), stage.label


def test_a_golden_key_is_the_fingerprint_of_its_identity():
    for key, identity in recorded()["identities"].items():
        assert fingerprint(identity) == key


def test_no_golden_is_of_what_is_gone():
    assert set(recorded()["cases"]) == set(CASES)


def test_every_kind_of_entry_is_in_a_recipe():
    entries = [entry for each in experiments().values() for entry in each["stages"].values()]
    assert {entry.get("do", "train") for entry in entries} == set(STAGE_KINDS.names())


def test_every_data_source_is_in_a_recipe():
    named = [each["data"]["source"] for each in experiments().values()]
    assert {name if isinstance(name, str) else next(iter(name)) for name in named} == set(
        SOURCES.names()
    )


def works(base: type[Operation] = Operation) -> Iterator[type[Operation]]:
    """Every class of work in the product, and not those of other tests."""
    own = str(Path(package.__path__[0]).resolve())
    for cls in base.__subclasses__():
        file = importlib.import_module(cls.__module__).__file__ or ""
        if cls.kind and str(Path(file).resolve()).startswith(own):
            yield cls
        yield from works(cls)


def test_every_kind_of_work_has_a_golden():
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    golden = {identity["kind"] for identity in recorded()["identities"].values()}
    assert golden == {cls.kind for cls in works()}


def write() -> None:
    """Write the goldens anew, and tell which change."""
    torch.__version__ = TORCH  # type: ignore[assignment]
    cases, identities = {}, {}
    for case in CASES:
        try:
            stages = stages_of(case)
        except Exception as error:
            raise SystemExit(f"{case}: {error}") from error
        for line in changed(stages, recorded()["cases"].get(case, keys_of(stages))):
            print(f"{case}: {line}")
        cases[case] = keys_of(stages)
        identities |= {stage.key: stage.identity for stage in stages}
    parts = {"cases": cases, "identities": dict(sorted(identities.items()))}
    lines = [
        f'"{part}": {{\n'
        + ",\n".join(f"{json.dumps(k)}: {canonical_json(v)}" for k, v in found.items())
        + "\n}"
        for part, found in parts.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(cases)} cases, {len(identities)} keys")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache_folder:
        os.environ["STILLHOUSE_CACHE"] = cache_folder
        write()
