"""Published settings: written short, the same key; and the first trials of a search."""

from __future__ import annotations

import pytest

from stillhouse.methods.core.objective.objective import METHODS, Objective, parse_term
from stillhouse.search.driver.reuse import continue_from_winner
from stillhouse.search.experiment.experiment import to_yaml
from stillhouse.search.experiment.initial_points import initial_points, values_outside_space
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.tuning.study import Study
from stillhouse.spaces.config.problems import ConfigError

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
    for other in published.companions:
        assert preset in METHODS.load(other).presets or other == "cross_entropy"


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_lie_in_the_declared_ranges(name, preset):
    term, method = parse_term(name, {"preset": preset}), METHODS.load(name)
    for field in term.model_fields_set & method.Config.search_space().keys():
        assert method.Config.search_space()[field].contains(getattr(term, field)), field


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
    count = len(initial_points(experiment))
    study = Study(experiment, tmp_path)
    for _ in range(count + 1):
        study.tell(study.ask().number, {"val_accuracy": 0.5})
    assert Study(experiment, tmp_path).ask().number == count + 1


def test_presets_of_methods_that_are_always_in(tmp_path):
    weight = "student.objective.soft_targets.weight"
    search = {weight: "declared", "student.objective.soft_targets.temperature": {"uniform": [1, 9]}}
    experiment = load_experiment(told(search, {"cross_entropy": {}, "soft_targets": {}}))
    (answers,) = initial_points(experiment).values()
    assert answers == {weight: 0.9, "student.objective.soft_targets.temperature": 4.0}
    assert dict(Study(experiment, tmp_path).ask().values) == answers


@pytest.mark.parametrize(
    ("search", "run", "message"),
    [
        (COMPOSED, {"sampler": "grid"}, "run.start: a grid tries only its own values"),
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


# The file's own values

HERE = {
    "student.objective.soft_targets.weight": {"uniform": [0.0, 1.6]},
    "student.training.lr": {"log_uniform": [0.01, 2.56]},
    "student.training.batch_size": {"integers": [16, 256, 16]},
    "student.training.optimizer": {"choice": ["sgd", "adamw"]},
}
HELD = {
    "student.objective.soft_targets.weight": 0.5,
    "student.training.lr": 0.04,
    "student.training.batch_size": 64,
    "student.training.optimizer": "sgd",
}


def held(search=HERE, **run):
    data = told(search, {"cross_entropy": {}, "soft_targets": {"weight": 0.5}}, **run)
    taught = {"epochs": 1, "lr": 0.04, "batch_size": 64}
    data["stages"]["student"] = {**data["stages"]["student"], "training": taught}
    return data


def test_the_file_is_the_first_trial_and_its_neighbours_differ_in_one_value(tmp_path):
    """A range has eight steps, in logarithms where it is drawn so: (2.56 / 0.01) ** (1 / 8) = 2."""
    experiment = load_experiment(held(start="file", neighbours=6))
    first, *others = initial_points(experiment).values()
    assert first == HELD
    changed = [{k: v for k, v in other.items() if v != HELD[k]} for other in others]
    assert changed == [
        {"student.training.lr": pytest.approx(0.08)},
        {"student.training.batch_size": 96},
        {"student.training.optimizer": "adamw"},
        {"student.objective.soft_targets.weight": pytest.approx(0.7)},
        {"student.training.lr": pytest.approx(0.02)},
        {"student.training.batch_size": 32},
    ]
    study = Study(experiment, tmp_path)
    assert [dict(study.ask().values) for _ in range(7)] == [first, *others]


def test_no_neighbour_lies_beyond_a_range_and_there_are_no_more_than_there_are():
    search = {"student.training.lr": {"log_uniform": [0.03, 0.041]}}
    found = initial_points(load_experiment(held(search, start="file", neighbours=50)))
    step = (0.041 / 0.03) ** (1 / 8)
    assert [answers["student.training.lr"] for answers in found.values()] == [
        0.04,
        pytest.approx(0.04 / step),
    ]


def test_a_chain_gains_or_loses_one_assistant(tiny):
    tiny["run"] |= {"start": "file", "neighbours": 2}
    del (
        tiny["search"]["student.objective.soft_targets.weight"],
        tiny["search"]["student.training.lr"],
    )
    experiment = load_experiment(tiny)
    drawn = []
    for answers in initial_points(experiment).values():
        drawn.append([m.rpartition(".")[2] for m, said in answers.items() if said == "with"])
    assert drawn == [["cnn6"], [], ["cnn6", "cnn4"]]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"start": "sampler", "neighbours": 2},
            "run.neighbours: are neighbours of the values in the file",
        ),
        ({"start": "file", "sampler": "grid"}, "run.start: a grid tries only its own values"),
    ],
)
def test_neighbours_of_nothing_are_refused(run, message):
    with pytest.raises(ConfigError) as error:
        load_experiment(held(**run))
    assert message in str(error.value)


def test_a_file_outside_all_ranges_is_no_start():
    with pytest.raises(ConfigError, match="no value of the file is within the searched"):
        load_experiment(held({"student.training.lr": {"uniform": [0.1, 0.2]}}, start="file"))


WRITTEN_OTHERWISE = {
    "whole numbers for others": ("training.momentum", 0.0, {"choice": [0, 0.5]}),
    "a number with an exponent": ("training.lr", 0.01, {"choice": [1e-2, 0.1]}),
    "a network by its name": ("network", {"cnn2": {}}, {"choice": ["cnn4", "cnn2"]}),
    "a network with its settings": (
        "network",
        {"cnn2": {"width": 0.5}},
        {"choice": ["cnn4", {"family": "cnn2", "width": 0.5}]},
    ),
    "a schedule by its name": (
        "training.schedule",
        {"cosine": {}},
        {"choice": ["constant", "cosine"]},
    ),
    "a schedule that is the default": ("training.schedule", None, {"choice": [{"cosine": {}}]}),
    "a whole training": (
        "training",
        {"epochs": 1, "nesterov": False, "momentum": 0.0},
        {"choice": [{"lr": 0.2}, {"momentum": 0, "nesterov": False, "epochs": 1}]},
    ),
    "a whole objective": (
        "objective",
        {"cross_entropy": {}, "soft_targets": {}},
        {"choice": [{"soft_targets": {"weight": 1}, "cross_entropy": {}}]},
    ),
    "teachers": ("teachers", ["teacher"], {"chain": {"of": ["teacher"], "at_least": 1}}),
    "data of its own": ("data", {"limit": 50}, {"choice": [{}, {"limit": 50, "download": False}]}),
    "a width between bounds": ("network.width", 1, {"uniform": [0.5, 1.5]}),
    "methods": (
        "objective",
        {"cross_entropy": {}, "soft_targets": {"temperature": 4}},
        {"methods": {"of": ["soft_targets", "attention"]}},
    ),
}


@pytest.mark.parametrize("case", WRITTEN_OTHERWISE)
def test_the_first_trial_is_the_files_configuration_however_it_is_written(case, tmp_path):
    field, value, domain = WRITTEN_OTHERWISE[case]
    search = {f"student.{field}": domain, "student.training.batch_size": {"integers": [64, 128]}}
    data = told(search, {"cross_entropy": {}, "soft_targets": {}}, start="file")
    if field == "training":
        del search["student.training.batch_size"]
    if value is not None:
        changes = {f"student.{field}": value}
        if field == "training.momentum":
            changes["student.training.nesterov"] = False
        experiment = load_experiment(data, changes)
    else:
        experiment = load_experiment(data)
    first = Study(experiment, tmp_path).ask()
    assert first.graph.student.key == experiment.stage_graph().student.key
    assert values_outside_space(experiment) == {}


def test_assistants_and_links_of_the_file_are_the_first_trial(tiny, tmp_path):
    tiny["run"] |= {"start": "file"}
    tiny["stages"]["assistants"] |= {
        "networks": [{"cnn6": {}}, {"cnn4": {"width": 1.0}}],
        "links": {"cnn4": {"training": {"lr": 0.02}}},
    }
    tiny["search"]["assistants.links.*.training.lr"] = {"log_uniform": [0.01, 0.1]}
    tiny["search"]["assistants.links.*.training.batch_size"] = {"choice": [32, 64]}
    tiny["search"]["student.objective.soft_targets.weight"] = {"choice": [0.5, 0.9]}
    experiment = load_experiment(tiny)
    assert values_outside_space(experiment) == {}
    first = Study(experiment, tmp_path).ask()
    assert first.values["assistants.links.cnn4.training.lr"] == 0.02
    assert first.graph.student.key == experiment.stage_graph().student.key


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({"student.training.lr": {"uniform": [0.1, 0.2]}}, {"student.training.lr": 0.04}),
        (
            {"student.training.optimizer": {"choice": ["adamw"]}},
            {"student.training.optimizer": "sgd"},
        ),
    ],
)
def test_values_outside_the_searched_ones_are_named(search, expected):
    both = {"student.training.batch_size": {"choice": [64, 128]}, **search}
    assert values_outside_space(load_experiment(held(both, start="file"))) == expected


def test_a_winner_is_the_start_of_a_search_on_other_data(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path))
    asked = load_experiment(held(start="sampler"))
    folder = RunFolder.new("started")
    folder.write("experiment.yaml", to_yaml(asked.plain()))
    won = {**HELD, "student.training.lr": 0.5, "student.training.optimizer": "adamw"}
    folder.write("best.yaml", to_yaml(asked.fixed_configuration(won, "started-best")))
    other = continue_from_winner("started", {"data.split_seed": 1}, num_trials=12)
    assert (other.name, other.trials, other.data.split_seed) == ("started-onwards", 12, 1)
    assert other.search == asked.search
    first, *others = initial_points(other).values()
    assert first == won
    assert len(others) == 3

    asked = load_experiment(held({**HERE, "data.augment.cutout": {"choice": [0, 2, 4]}}))
    folder.write("experiment.yaml", to_yaml(asked.plain()))
    won |= {"data.augment.cutout": 4}
    folder.write("best.yaml", to_yaml(asked.fixed_configuration(won, "started-best")))
    first, *_ = initial_points(continue_from_winner("started", {}, num_trials=12)).values()
    assert first == {**won, "data.augment.cutout": "4"}  # a choice is answered by its label

    folder.write("best.yaml", "name: started")
    with pytest.raises(ConfigError, match="is no experiment: it has no data"):
        continue_from_winner("started", {}, num_trials=12)

    folder.write("best.yaml", to_yaml(asked.fixed_configuration(won, "started-best")))
    folder.write("experiment.yaml", to_yaml(asked.fixed_configuration(won, "started")))
    with pytest.raises(
        ConfigError, match="started: searched nothing; without --trials its recipe is repeated"
    ):
        continue_from_winner("started", {}, num_trials=12)
