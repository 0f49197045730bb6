"""Every kind of stage says which figures it makes, and makes these."""

import pytest

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.stage_graph import build_stage_graph, parse_stages
from stillhouse.search.stages.core.config import STAGE_KINDS

FAST = {"epochs": 1, "batch_size": 64, "lr": 0.01}
LABELS = {"cross_entropy": {}}
TAUGHT = {"cross_entropy": {}, "soft_targets": {}}
DATA = {"source": "digits", "limit": 120, "resize": 12}
TEACHER = {"network": "cnn4", "objective": LABELS, "training": FAST}
STUDENT = {"network": "cnn2", "objective": TAUGHT, "teachers": ["teacher"], "training": FAST}
FIRST = {"network": "cnn2", "objective": LABELS, "training": FAST, "data": {"classes": [0, 1, 2]}}
PARTS = {
    "do": "neighbourhoods",
    "teacher": "teacher",
    "candidates": ["depthwise"],
    "longest": 1,
    "widths": [1.0, 0.5],
    "training": FAST,
}
ASSEMBLED = {"do": "assemble", "neighbourhoods": "parts"}
FULL = {**PARTS, "widths": [1.0]}
SMALL = {"lenet5": {"width": 0.25}}
DISTILLED = {"do": "distil_data", "network": SMALL, "iterations": 2, "examples": 2, "steps": 1}
DREAMT = {"images": 20, "steps": 2}
JUDGED = {"networks": 1, "judged_on": 2}
SPLIT = {
    "objective": {"subclass_contrast": {"weight": 0.1}, **LABELS},
    "network": "cnn2",
    "subclasses": 2,
    "training": FAST,
}
OTHER_DATA = {**FIRST, "network": None, "start": "first", "data": {"classes": [3, 4]}}
BRIEFLY = {**LABELS, "soft_targets": {"schedule": {"switch": {"until": 0.5}}}}
OVER = {**STUDENT, "training": {**FAST, "epochs": 2}, "objective": BRIEFLY}
IN_STEPS = {"network": SMALL, "data": {"distilled": "made"}, "few_steps": True}
LINKS = {"teacher": "teacher", "networks": ["cnn2"], "objective": TAUGHT, "training": FAST}
AGAIN = {"network": "cnn2", "count": 2, "objective": TAUGHT, "training": FAST}
BOTH = {"network": "cnn2", "peers": ["cnn2"], "objective": TAUGHT, "training": FAST}
STEPS = {"prune": {"training": FAST}, "quantise": {"training": FAST}}
TIMED = {**ASSEMBLED, "latency": {}}
FINALS = {
    "train from labels": {"teacher": TEACHER},
    "train by a teacher": {"teacher": TEACHER, "student": STUDENT},
    "train, where a method is over at the end": {"teacher": TEACHER, "student": OVER},
    "train on other data": {"first": FIRST, "student": OTHER_DATA},
    "train with subclasses": {"student": SPLIT},
    "train in few steps": {"made": DISTILLED, "student": IN_STEPS},
    "chain": {"teacher": TEACHER, "chain": {"do": "chain", **LINKS}},
    "generations": {"last": {"do": "generations", **AGAIN}},
    "peers": {"both": {"do": "peers", **BOTH}},
    "heads": {"teacher": TEACHER, "last": {"do": "heads", "teacher": "teacher", "training": FAST}},
    "prune": {"teacher": TEACHER, "last": {"do": "prune", "start": "teacher", "objective": None}},
    "quantise": {"teacher": TEACHER, "last": {"do": "quantise", "start": "teacher", "how": "ptq"}},
    "compress": {"teacher": TEACHER, "last": {"do": "compress", "start": "teacher", **STEPS}},
    "invert": {"teacher": TEACHER, "last": {"do": "invert", "teacher": "teacher", **DREAMT}},
    "distil_data": {"made": DISTILLED},
    "distil_data for fresh networks": {"made": {**DISTILLED, "start": "random", **JUDGED}},
    "neighbourhoods": {"teacher": TEACHER, "parts": PARTS},
    "assemble": {"teacher": TEACHER, "parts": PARTS, "last": ASSEMBLED},
    "assemble, timed": {"teacher": TEACHER, "parts": FULL, "last": TIMED},
}
WITHOUT_SPLIT = ["train from labels", "train by a teacher", "prune", "heads", "distil_data"]


def test_every_kind_of_stage_is_looked_at():
    kinds = {entry.get("do", "train") for stages in FINALS.values() for entry in stages.values()}
    assert kinds == set(STAGE_KINDS.names())


@pytest.mark.parametrize(
    ("final", "validation"),
    [*((final, 0.2) for final in FINALS), *((final, 0.0) for final in WITHOUT_SPLIT)],
)
def test_a_stage_makes_the_figures_that_it_declares(final, validation, tmp_path):
    library = Library(str(tmp_path / "library"))
    stages = FINALS[final]
    data = DataConfig.parse({**DATA, "validation": validation})
    last = build_stage_graph(parse_stages(stages), data, list(stages)[-1]).student
    for stage in last.ancestors():
        for _ in build_stages([stage], library):
            pass
        assert set(library.record(stage.key).figures) == stage.metric_names, stage.label
