"""The diagnosis of a teacher: stages shared with a search, shares of the gain, ties, a page."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.cli.app import app
from stillhouse.search.evaluation.diagnosis import METRIC, VARIANTS, Diagnosis
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.report.page.diagnosis import diagnosis_sentences, variant_rows
from stillhouse.search.results.outcome import SeedRuns

FIGURES = {
    **{f"{s}_{n}": 0.5 for s in ("train", "validation") for n in ("confidence", "entropy", "ece")},
    **{"train_saturated": 0.9, "spread": 0.05, "chance": 0.125, "erased": 1.0},
}


def repeated(role, values):
    def record(value):
        payload = Payload(name="tensors", sha256="", size=0)
        return Record(
            key=f"{role}{value}", name=role, kind="train", identity={}, parents=(),
            payload=payload, figures={METRIC: value}, curve=(), facts={}, seconds=1.0, made_at="",
        )  # fmt: skip

    return SeedRuns(role, tuple(range(len(values))), tuple(map(record, values)))


def found(**changed):
    values = {"plain": (0.80, 0.81, 0.79), "soft_targets": (0.90, 0.91, 0.89)}
    values |= {"partial_teacher": (0.86, 0.87, 0.85), **changed}
    students = tuple(repeated(v, values.get(v, (0.80, 0.82, 0.79))) for v in VARIANTS)
    return Diagnosis("pair", "teacher", FIGURES, ((1.0,),), 0.3, students)


def test_shares_of_the_gain_and_ties():
    diagnosis = found()
    told = {student["variant"]: student for student in diagnosis.plain()["students"]}
    assert told["partial_teacher"]["gain"] == pytest.approx(0.06)
    assert told["partial_teacher"]["share"] == pytest.approx(0.6)
    assert told["soft_targets"]["share"] == pytest.approx(1.0)
    assert [v for v, s in told.items() if s["tie"]] == [
        "plain",
        *("smoothing", "class_similarity", "top_classes", "partial_similarity"),
    ]
    text = " ".join(diagnosis_sentences(diagnosis))
    assert "how sure the teacher is (KD-pt), 60 % of it" in text
    assert "hardly weighs examples" in text
    assert "erased" in text
    assert [row[-1] for row in variant_rows(diagnosis)].count("tie") == 4


def test_a_gain_that_seeds_could_make_has_no_shares():
    diagnosis = found(soft_targets=(0.80, 0.83, 0.79))
    assert all(student["share"] is None for student in diagnosis.plain()["students"])
    assert "gain nothing over labels" in " ".join(diagnosis_sentences(diagnosis))


def test_from_the_command_line_with_stages_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taught = {"epochs": 1, "batch_size": 32}
    both = {"cross_entropy": {"weight": 0.1}, "soft_targets": {"weight": 0.9}}
    told = {
        "name": "pair",
        "data": {"source": "digits", "limit": 150, "validation": 0.4},
        "stages": {
            "teacher": {"network": "cnn4", "objective": {"cross_entropy": {}}, "training": taught},
            "student": {
                "network": "cnn2",
                "teachers": ["teacher"],
                "objective": both,
                "training": taught,
            },
        },
        "library": str(tmp_path / "library"),
    }
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    words = ["diagnose", str(file), "--inline", "--seeds", "2", "--json"]
    answer = CliRunner().invoke(app, words)
    assert answer.exception is None, repr(answer.exception)
    first = json.loads(answer.output)
    assert [student["variant"] for student in first["students"]] == list(VARIANTS)
    assert all(len(student["values"]) == 2 for student in first["students"])
    page = (tmp_path / first["file"]).read_text(encoding="utf-8")
    assert "What explains the gain" in page
    assert "<svg" in page
    # The experiment's own student is the one that hears soft targets.
    own = load_experiment(file).stage_graph().student.key
    assert first["students"][-1]["keys"][0] == own
    made = sorted((tmp_path / "library").rglob("record.json"))
    again = json.loads(CliRunner().invoke(app, words).output)
    assert again["students"] == first["students"]
    assert sorted((tmp_path / "library").rglob("record.json")) == made


def test_a_student_without_teachers_is_refused(tmp_path):
    told = {
        "name": "alone",
        "data": {"source": "digits"},
        "stages": {"student": {"network": "cnn2", "objective": {"cross_entropy": {}}}},
        "library": str(tmp_path / "library"),
    }
    file = tmp_path / "alone.yaml"
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    error = CliRunner().invoke(app, ["diagnose", str(file), "--inline"]).exception
    assert "stages.student: diagnose needs a student with" in str(error)
