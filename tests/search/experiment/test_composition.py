"""A search over the methods of an objective: drawn, laid out, kept, shown and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stillhouse.search.cli.app import app
from stillhouse.search.core.formatting import format_domain as worded
from stillhouse.search.driver.launch import launch, resume
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.setting_paths import enumerate_suggestions, split_compositions
from stillhouse.search.tuning.study import Study
from stillhouse.spaces.config.problems import ConfigError

OBJECTIVE = "student.objective"
LINKS = "assistants.links.*.objective"


def told(tmp_path, search, objective=None, **run):
    """A small search as plain data; ``objective`` is the student's."""
    taught = {"epochs": 1, "batch_size": 32}
    return {
        "name": "composed",
        "data": {"source": "digits", "limit": 120, "validation": 0.4},
        "stages": {
            "teacher": {"network": "cnn4", "objective": {"cross_entropy": {}}, "training": taught},
            "student": {
                "network": "cnn2",
                "teachers": ["teacher"],
                "objective": objective or {"cross_entropy": {}},
                "training": taught,
            },
        },
        "search": search,
        "goal": {"maximize": "student.val_accuracy"},
        "run": {"trials": 6, "baselines": False, "repeats": {"top": 1, "seeds": 1}, **run},
        "library": str(tmp_path / "library"),
        "tracking": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }


def composed(of=("soft_targets", "attention", "relations"), **limits):
    return {OBJECTIVE: {"methods": {"of": list(of), **limits}}}


def drawn(experiment, points=1):
    found = []
    for _ in enumerate_suggestions(
        lambda chooser: found.append(experiment.suggest(chooser)), points
    ):
        yield from found
        found.clear()


def test_a_knob_is_asked_only_where_its_method_is_chosen(tmp_path):
    experiment = load_experiment(told(tmp_path, composed(at_most=2)))
    for values in drawn(experiment):
        chosen = values[OBJECTIVE]
        inner = {path.split(".")[2] for path in values if path != OBJECTIVE}
        assert inner == set(chosen)
        terms = experiment.stage_graph(values).student.operation.objective.terms
        assert set(terms) == {"cross_entropy", *chosen}
        for path, value in values.items():
            if path != OBJECTIVE:
                _, _, method, field = path.split(".")
                assert getattr(terms[method], field) == value


def test_what_the_objective_holds_stays_and_is_searched_as_before(tmp_path):
    search = {**composed(), f"{OBJECTIVE}.cross_entropy.weight": {"choice": [0.25, 0.5]}}
    search[f"{OBJECTIVE}.soft_targets.temperature"] = {"choice": [2.0]}
    objective = {"cross_entropy": {}, "soft_targets": {"drop": 0, "schedule": {"switch": {}}}}
    experiment = load_experiment(told(tmp_path, search, objective))
    for values in drawn(experiment):
        terms = experiment.stage_graph(values).student.operation.objective.terms
        assert terms["cross_entropy"].weight == values[f"{OBJECTIVE}.cross_entropy.weight"]
        if "soft_targets" in values[OBJECTIVE]:
            assert terms["soft_targets"].temperature == 2.0
            assert terms["soft_targets"].schedule.kind == "switch"
        else:
            assert f"{OBJECTIVE}.soft_targets.temperature" not in values


def test_the_file_runs_as_it_stands_with_the_first_method(tmp_path):
    experiment = load_experiment(told(tmp_path, composed()))
    assert set(experiment.stage_graph().student.operation.objective.terms) == {
        "cross_entropy",
        "soft_targets",
    }


def test_the_best_configuration_is_a_file_of_its_own(tmp_path):
    experiment = load_experiment(told(tmp_path, composed(at_least=2)))
    values = next(drawn(experiment))
    settled = experiment.fixed_configuration(values, "best")
    assert "search" not in settled
    assert set(settled["stages"]["student"]["objective"]) == {"cross_entropy", *values[OBJECTIVE]}
    again = load_experiment(yaml.safe_load(yaml.safe_dump(settled)))
    assert again.stage_graph().student.key == experiment.stage_graph(values).student.key


def test_every_link_of_a_chain_may_have_methods_of_its_own(tmp_path):
    links = {"methods": {"of": ["soft_targets", "relations"], "at_most": 1}}
    plain = told(tmp_path, {LINKS: links, "assistants.networks": {"choice": [["cnn4"]]}})
    plain["stages"]["teacher"]["network"] = "cnn6"
    both = {"cross_entropy": {}, "soft_targets": {"temperature": 3.0}}
    chain = {"do": "chain", "teacher": "teacher", "networks": ["cnn4"], "objective": both}
    plain["stages"] = {
        "teacher": plain["stages"]["teacher"],
        "assistants": chain,
        "student": {**plain["stages"]["student"], "network": "cnn2", "teachers": ["assistants"]},
    }
    plain["stages"]["student"]["objective"] = {"cross_entropy": {}, "soft_targets": {}}
    experiment = load_experiment(plain)
    seen = set()
    for values in drawn(experiment):
        student = experiment.stage_graph(values).student
        (assistant,) = student.parents
        chosen = values["assistants.links.cnn4.objective"]
        terms = assistant.operation.objective.terms
        assert set(terms) == {"cross_entropy", *chosen}
        if "soft_targets" in chosen:
            drawn_t = values["assistants.links.cnn4.objective.soft_targets.temperature"]
            assert terms["soft_targets"].temperature == drawn_t
        seen.add(tuple(chosen))
    assert seen == {("soft_targets",), ("relations",)}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random", "grid"])
def test_every_sampler_proposes_compositions(tmp_path, sampler):
    search = {**composed(at_most=2), "student.training.lr": {"log_uniform": [0.01, 0.1]}}
    plain = told(tmp_path, search, sampler=sampler, trials=30, grid_points=1)
    study = Study(load_experiment(plain), tmp_path / "run")
    seen = set()
    for _ in range(24):
        proposal = study.ask()
        if proposal is None:
            break
        chosen = tuple(proposal.values[OBJECTIVE])
        seen.add(chosen)
        study.tell(proposal.number, {"val_accuracy": 0.5 + 0.2 * ("relations" in chosen)})
    assert all(1 <= len(chosen) <= 2 for chosen in seen)
    assert len(seen) > 2
    shares = study.importances()
    if sampler != "grid":
        assert max(shares, key=shares.get).startswith(f"{OBJECTIVE}.")


def test_tpe_learns_which_method_helps(tmp_path):
    of = ("soft_targets", "attention", "relations", "hints")
    plain = told(tmp_path, composed(of), trials=60)
    study = Study(load_experiment(plain), tmp_path / "run")
    chosen = []
    for _ in range(60):
        proposal = study.ask()
        chosen.append("hints" in proposal.values[OBJECTIVE])
        study.tell(proposal.number, {"val_accuracy": 0.5 + 0.3 * chosen[-1]})
    assert sum(chosen[-20:]) >= 15


def test_a_stopped_search_goes_on_with_the_same_composition(tmp_path):
    experiment = load_experiment(told(tmp_path, composed()))
    first = Study(experiment, tmp_path / "run").ask()
    again = Study(load_experiment(experiment.plain()), tmp_path / "run").ask()
    assert again.number == first.number
    assert again.graph.student.key == first.graph.student.key


def test_params_say_of_every_method_whether_it_is_in():
    search = {OBJECTIVE: {"methods": {"of": ["soft_targets", {"attention": {"at": "last"}}]}}}
    search |= {LINKS: {"methods": {"of": ["hints"]}}, "a.networks": {"chain": {"of": ["cnn2"]}}}
    values = {OBJECTIVE: ["attention"], f"{OBJECTIVE}.attention.weight": 3.0, "a.networks": []}
    values["assistants.links.cnn4.objective"] = ["hints"]
    assert split_compositions(values, search) == {
        f"{OBJECTIVE}.soft_targets": "without",
        f"{OBJECTIVE}.attention": "with",
        f"{OBJECTIVE}.attention.weight": 3.0,
        "a.networks": [],
        "assistants.links.cnn4.objective.hints": "with",
    }
    assert worded(
        search[OBJECTIVE]
    ) == "1 … 2 of soft_targets, attention (at: last), each with " + ("its own ranges")


def test_a_search_over_compositions_from_launch_to_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launched = launch(load_experiment(told(tmp_path, composed(), trials=3)), inline=True)
    assert launched.state == "finished"
    assert {t.state for t in launched.outcome.trials} == {"finished"}
    page = (launched.folder.path / "report.html").read_text(encoding="utf-8")
    assert "each with its own ranges" in page
    best = load_experiment(launched.folder.path / "best.yaml")
    assert not best.search
    more = resume(launched.folder.name, inline=True, trials=1)
    assert len(more.outcome.trials) == 4
    params = _params(tmp_path)
    trial = launched.outcome.trials[0]
    for name in ("soft_targets", "attention", "relations"):
        said = "with" if name in trial.values[OBJECTIVE] else "without"
        assert params["trial 0"][f"objective.{name}"] == said


def _params(tmp_path):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("composed")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run.data.params for run in runs}


def test_check_and_plan_know_compositions(tmp_path):
    file = tmp_path / "composed.yaml"
    file.write_text(yaml.safe_dump(told(tmp_path, composed(at_most=2))))
    said = CliRunner().invoke(app, ["check", str(file)])
    assert said.exit_code == 0
    assert "1 to 2 methods of ['soft_targets', 'attention', 'relations']" in said.output
    planned = plan_search(load_experiment(file))
    assert planned.trials == 6
    assert [stage.label for stage in planned.stages] == ["teacher"]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"student.network": {"methods": {"of": ["hints"]}}},
            "methods: needs the path of an objective",
        ),
        (
            {"student.objectiv": {"methods": {"of": ["hints"]}}},
            "methods: needs the path of an objective",
        ),
        ({OBJECTIVE: {"methods": {"of": ["hint"]}}}, "unknown method 'hint'; did you mean 'hints'"),
        (
            {**composed(), f"{OBJECTIVE}.hints.weight": "declared"},
            "this field declares no range",
        ),
        (
            {**composed(), f"{OBJECTIVE}.hints.weight": {"uniform": [1, 2]}},
            "does not exist: unknown field 'hints'",
        ),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, search, message):
    with pytest.raises(ConfigError) as error:
        load_experiment(told(tmp_path, search))
    assert message in str(error.value)


def test_no_method_at_all_is_a_composition_too(tmp_path):
    """On some pairs the plain student is the best; nobody listens to its teacher then."""
    experiment = load_experiment(told(tmp_path, composed(at_least=0)))
    plain = experiment.stage_graph({OBJECTIVE: ()})
    assert list(plain.student.operation.objective.terms) == ["cross_entropy"]
    assert plain.student.parents == ()
    assert [s.label for s in experiment.stage_graph({OBJECTIVE: ("hints",)}).prerequisites] == [
        "teacher"
    ]


def test_declared_ranges_of_methods_that_may_be_chosen_are_known(tmp_path):
    search = {**composed(), f"{OBJECTIVE}.relations.distance": "declared"}
    experiment = load_experiment(told(tmp_path, search))
    assert str(experiment.search[f"{OBJECTIVE}.relations.distance"]) == "log_uniform [1.0, 100.0]"
    assert json.dumps(experiment.plain())
    assert Path(experiment.library).name == "library"
