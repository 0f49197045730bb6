"""Published settings: written short, the same key; and the first trials of a search."""

from __future__ import annotations

import pytest

from methods.core.objective import METHODS, Objective, parse_term
from search.loading import load_experiment
from search.starts import starts
from search.study import Study
from spaces.problem import ConfigError

PRESETS = [(name, preset) for name in METHODS.names() for preset in METHODS.load(name).presets]


def told(search, objective=None, **run):
    taught = {"epochs": 1}
    student = {"network": "cnn2", "teachers": ["teacher"], "training": taught}
    return {
        "name": "started",
        "data": {"source": "digits", "limit": 120, "validation": 0.4},
        "stages": {
            "teacher": {"network": "cnn4", "objective": {"cross_entropy": {}}, "training": taught},
            "student": {**student, "objective": objective or {"cross_entropy": {}}},
        },
        "search": search,
        "goal": {"maximize": "student.val_accuracy"},
        "run": {"trials": 8, "start": "presets", **run},
    }


COMPOSED = {
    "student.objective": {"methods": {"of": ["guided", "attention", "channel_attention"]}},
    "student.training.lr": {"log_uniform": [0.01, 0.1]},
}


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_and_its_values_written_out_are_one_objective(name, preset):
    published = METHODS.load(name).presets[preset]
    short = Objective.parse({name: {"preset": preset}})
    assert short.identity() == Objective.parse({name: dict(published.settings)}).identity()
    assert short == Objective.parse(short.plain())
    assert "preset" not in str(short.plain())
    assert published.source
    for other in published.beside:
        assert preset in METHODS.load(other).presets or other == "cross_entropy"


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_lie_in_the_declared_ranges(name, preset):
    term, method = parse_term(name, {"preset": preset}), METHODS.load(name)
    for field in term.model_fields_set & method.Config.space().keys():
        assert method.Config.space()[field].contains(getattr(term, field)), field


def test_what_is_said_beside_a_preset_overrides_it():
    term = parse_term("attention", {"preset": "tian2020", "weight": 500.0})
    assert (term.weight, term.at) == (500.0, "stages")


def test_a_preset_there_is_none_of_names_the_nearest():
    with pytest.raises(ConfigError, match=r"attention\.preset: unknown preset of"):
        Objective.parse({"attention": {"preset": "tian20"}})


def test_the_first_trials_of_a_composition_are_the_presets(tmp_path):
    experiment = load_experiment(told(COMPOSED))
    study = Study(experiment, tmp_path)
    first = [study.ask().values for _ in range(3)]
    both = ["guided", "channel_attention"]
    chosen = [list(values["student.objective"]) for values in first]
    assert sorted(chosen) == sorted([both, both, ["attention"]])
    for values in first:
        assert values["student.training.lr"] == 0.05  # the file's own
        if "attention" in values["student.objective"]:
            assert values["student.objective.attention.weight"] == 1000.0
        else:
            assert values["student.objective.channel_attention.connector"] == "always"
    weights = {v.get("student.objective.guided.weight") for v in first} - {None}
    assert weights == {0.1, 1.0}


def test_a_resumed_search_does_not_start_again(tmp_path):
    experiment = load_experiment(told(COMPOSED))
    count = len(starts(experiment))
    study = Study(experiment, tmp_path)
    for _ in range(count + 1):
        study.tell(study.ask().number, {"val_accuracy": 0.5})
    assert Study(experiment, tmp_path).ask().number == count + 1


def test_presets_of_methods_that_are_always_in(tmp_path):
    weight = "student.objective.soft_targets.weight"
    search = {weight: "declared", "student.objective.soft_targets.temperature": {"uniform": [1, 9]}}
    experiment = load_experiment(told(search, {"cross_entropy": {}, "soft_targets": {}}))
    (answers,) = starts(experiment).values()
    assert answers == {weight: 0.9, "student.objective.soft_targets.temperature": 4.0}
    assert dict(Study(experiment, tmp_path).ask().values) == answers


@pytest.mark.parametrize(
    ("search", "run", "message"),
    [
        (COMPOSED, {"sampler": "grid"}, "run.start: a grid tries its own values only"),
        (
            {"student.training.lr": {"uniform": [0.01, 0.1]}},
            {},
            "run.start: no searched method has",
        ),
        (
            {"student.objective.soft_targets.weight": {"uniform": [0.1, 0.2]}},
            {},
            "run.start: no searched method has presets within",
        ),
    ],
)
def test_starts_that_there_cannot_be_are_found_before_anything_runs(search, run, message):
    with pytest.raises(ConfigError) as error:
        load_experiment(told(search, {"cross_entropy": {}, "soft_targets": {}}, **run))
    assert message in str(error.value)
