"""The study: Optuna is told the truth, and what a stop interrupted is taken up again."""

import copy
import itertools
import json
import math
import statistics

import optuna
import pytest
from optuna.trial import TrialState

from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.tuning.study import MAX_REFUSALS, Study

FIGURES = {"val_accuracy": 0.5, "val_nll": 1.0, "epoch": 2.0}
ONE_GOAL = {"maximize": "student.val_accuracy"}
TWO_GOALS = {"maximize": ["student.val_accuracy"], "minimize": ["student.val_nll"]}


@pytest.fixture
def study(load, tmp_path):
    """A study of the tiny experiment; asked again, the same study in another process's place."""

    def opened(changes=None, folder="run", **top):
        return Study(load(changes, **top), tmp_path / folder)

    return opened


def optunas(tmp_path, folder="run"):
    """What Optuna has on the disk."""
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / folder / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=None, storage=storage).trials


def figures(**changed):
    return {**FIGURES, **changed}


# The truth


def test_every_end_is_told_as_what_it_was(study, tmp_path):
    asking = study()
    for _ in range(5):
        asking.ask()
    asking.tell(0, figures())
    asking.prune(1, figures(epoch=1.0), "stopped by scheduler")
    asking.fail(2, "out of memory")
    asking.tell(3, figures(val_accuracy=math.nan))
    assert [t.state for t in optunas(tmp_path)] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert [t.state for t in asking.trials()] == [
        "finished",
        "pruned",
        "failed",
        "failed",
        "running",
    ]


def test_a_pruned_trial_keeps_its_figures_but_has_no_value(study, tmp_path):
    asking = study()
    asking.ask()
    told = asking.prune(0, figures(epoch=1.0), "stopped by scheduler at epoch 1")
    assert optunas(tmp_path)[0].values is None
    assert told.figures == figures(epoch=1.0)
    assert told.reason == "stopped by scheduler at epoch 1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_goal_that_is_no_number_is_a_failure_with_its_reason(study, value):
    asking = study()
    asking.ask()
    found = {} if value is None else {"val_accuracy": value}
    told = asking.tell(0, {"val_nll": 1.0, **found})
    assert told.state == "failed"
    found = "none" if value is None else value
    assert told.reason == f"val_accuracy is not a finite number, found {found}"


def test_a_figure_under_a_limit_must_be_a_number_too(study):
    asking = study({"goal.subject_to": {"student.val_nll": 2.0}})
    for _ in range(2):
        asking.ask()
    assert asking.tell(0, figures(val_nll=math.nan)).state == "failed"
    assert asking.tell(1, figures(val_nll=1.0)).state == "finished"


def test_both_goals_are_told_in_their_directions(study, tmp_path):
    asking = study({"goal": TWO_GOALS})
    asking.ask()
    asking.tell(0, figures(val_accuracy=0.25, val_nll=3.0))
    assert optunas(tmp_path)[0].values == [0.25, 3.0]
    asking.ask()
    asking.tell(1, figures(val_accuracy=0.25, val_nll=2.0))
    best = asking._study.best_trials
    assert [trial.number for trial in best] == [1]


# Limits


def sized(**limits):
    """Students of three sizes (374, 1,026 and 3,194 parameters) under limits."""
    return {
        "search": {"student.network.width": {"choice": [0.25, 0.5, 1.0]}},
        "goal.subject_to": {f"student.{figure}": limit for figure, limit in limits.items()},
    }


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_what_is_over_budget_is_never_handed_out(study, tmp_path, sampler):
    asking = study(sized(parameters=2000) | {"run.sampler": sampler})
    handed = [asking.ask() for _ in range(2 if sampler == "grid" else 8)]
    assert {p.costs["parameters"] for p in handed} == {374, 1026}
    for proposal in handed:
        asking.tell(proposal.number, figures())
    if sampler == "grid":
        assert asking.ask() is None
    refused = [t for t in optunas(tmp_path) if "refused" in t.user_attrs]
    assert refused
    assert {t.state for t in refused} == {TrialState.PRUNED}
    assert {t.constraints["parameters"] for t in refused} == {1194}
    assert all("over budget" in t.user_attrs["refused"] for t in refused)
    numbers = {t.number for t in refused}
    assert numbers.isdisjoint(trial.number for trial in asking.trials())
    assert {t.constraints["parameters"] for t in optunas(tmp_path)} <= {1194, -974, -1626}


def test_costs_are_told_before_anything_is_trained(study, tmp_path):
    asking = study(sized(flops={"min": 1, "max": 10**9}))
    proposal = asking.ask()
    assert proposal.costs.keys() == {"parameters", "flops", "bytes"}
    assert optunas(tmp_path)[0].constraints == {"flops": 1 - proposal.costs["flops"]}


def test_a_search_without_a_way_out_ends(study, monkeypatch):
    monkeypatch.setattr("stillhouse.search.tuning.study.MAX_REFUSALS", 5)
    asking = study(sized(parameters=2000))
    monkeypatch.setattr(type(asking._experiment.limits["parameters"]), "violation", lambda *_: 1.0)
    assert asking.ask() is None
    assert asking.trials() == []
    assert MAX_REFUSALS > 5


def test_a_grid_goes_on_however_many_leaves_are_refused(study, monkeypatch):
    monkeypatch.setattr("stillhouse.search.tuning.study.MAX_REFUSALS", 2)
    changes = sized(parameters=500) | {"run.sampler": "grid"}
    changes["search"] = {"student.network.width": {"choice": [2.0, 1.5, 1.0, 0.5, 0.25]}}
    assert study(changes).ask().costs["parameters"] == 374


def test_a_measured_limit_is_told_as_a_constraint(study, tmp_path):
    asking = study({"goal.subject_to": {"student.val_nll": 2.0, "student.val_ece": {"min": 0.5}}})
    for _ in range(2):
        asking.ask()
    over = asking.tell(0, figures(val_nll=3.0, val_ece=0.75))
    within = asking.tell(1, figures(val_nll=1.0, val_ece=0.5))
    assert [t.constraints for t in optunas(tmp_path)] == [
        {"val_nll": 1.0, "val_ece": -0.25},
        {"val_nll": -1.0, "val_ece": 0.0},
    ]
    assert [over.feasible, within.feasible] == [False, True]
    assert over.state == "finished"


def test_values_that_do_not_go_together_are_refused(study, tmp_path):
    """All weights 0 teach nothing; neither weight alone is wrong."""
    weights = {"choice": [0.0, 1.0]}
    search = {
        "student.objective.cross_entropy.weight": weights,
        "student.objective.soft_targets.weight": weights,
    }
    asking = study({"search": search, "run.sampler": "grid"})
    handed = list(iter(asking.ask, None))
    assert [tuple(p.values.values()) for p in handed] == [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    (refused,) = [t for t in optunas(tmp_path) if "refused" in t.user_attrs]
    assert "every weight is 0" in refused.user_attrs["refused"]
    assert [trial.number for trial in asking.trials()] == [1, 2, 3]


# A stop, and what comes after it


def test_what_was_running_is_taken_up_under_its_number(study):
    before = study()
    asked = [before.ask() for _ in range(3)]
    before.tell(1, figures())
    after = study()
    assert [trial.state for trial in after.trials()] == ["running", "finished", "running"]
    taken = [after.ask(), after.ask()]
    assert [p.number for p in taken] == [0, 2]
    for old, new in zip([asked[0], asked[2]], taken, strict=True):
        assert new.graph.keys_by_label == old.graph.keys_by_label
        assert new.costs == old.costs
        assert json.dumps(new.values) == json.dumps({k: v for k, v in old.values.items()})
    assert after.tell(0, figures()).state == "finished"
    assert after.fail(2, "no luck").state == "failed"
    assert after.ask().number == 3


def test_a_trial_that_was_stopped_before_it_was_laid_out_is_forgotten(study, tmp_path):
    before = study()
    before.ask()
    before._study.ask()
    after = study()
    assert [trial.number for trial in after.trials()] == [0]
    assert optunas(tmp_path)[1].state == TrialState.FAIL
    assert [after.ask().number, after.ask().number] == [0, 2]


def test_ended_trials_stay_as_they_were(study):
    before = study()
    for _ in range(3):
        before.ask()
    before.tell(0, figures(), reused=True)
    before.prune(1, figures(), "stopped")
    before.fail(2, "broken")
    assert study().trials() == before.trials()
    assert [trial.reused for trial in study().trials()] == [True, False, False]


def test_limits_of_a_trial_taken_up_still_hold(study):
    changes = {"goal.subject_to": {"student.val_nll": 2.0, "student.parameters": 1000}}
    study(changes).ask()
    after = study(changes)
    after.ask()
    assert not after.tell(0, figures(val_nll=3.0)).feasible


def test_two_studies_side_by_side_do_not_mix(study):
    study(folder="one").ask()
    assert study(folder="two").trials() == []


# Samplers


def run(asking, trials):
    """Ask and tell; accuracy is better for a larger weight, and for cnn6 among the assistants."""
    values = []
    for _ in range(trials):
        proposal = asking.ask()
        if proposal is None:
            break
        values.append(dict(proposal.values))
        weight = proposal.values["student.objective.soft_targets.weight"]
        accuracy = weight / 2 + 0.3 * ("cnn6" in proposal.values["assistants.networks"])
        asking.tell(proposal.number, figures(val_accuracy=accuracy, val_nll=1 - accuracy / 2))
    return values


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random", "grid"])
@pytest.mark.parametrize(
    "goal", [{"maximize": "student.val_accuracy"}, TWO_GOALS], ids=["one", "two"]
)
def test_every_sampler_gets_through_a_search(study, sampler, goal):
    """With conditional knobs, a limit, and one goal or two."""
    search = {
        "assistants.networks": {"chain": ["cnn6", "cnn4"]},
        "assistants.links.*.training.lr": {"log_uniform": [0.01, 0.1]},
        "student.network.width": {"choice": [0.25, 0.5, 1.0]},
        "student.objective.soft_targets.weight": {"choice": [0.3, 0.9]},
        "student.training.epochs": {"integers": [1, 3]},
    }
    limits = {"student.parameters": 2000, "student.val_nll": 0.9}
    goal = {**goal, "subject_to": limits}
    trials = 8 if sampler == "gp" else 15
    asking = study({"search": search, "goal": goal, "run.sampler": sampler, "run.trials": trials})
    values = run(asking, trials)
    assert len(values) == trials
    assert {trial.state for trial in asking.trials()} == {"finished"}
    for drawn in values:
        links = {p.split(".")[2] for p in drawn if ".links." in p}
        assert links == set(drawn["assistants.networks"])


def test_tpe_learns_what_helps(study):
    asking = study({"run.sampler": "tpe", "run.trials": 40})
    run(asking, 40)
    found = [trial.figures["val_accuracy"] for trial in asking.trials()]
    assert statistics.fmean(found[20:]) > statistics.fmean(found[:10]) + 0.05


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
@pytest.mark.parametrize("seed", [2**32 - 1, 1_764_500_000_000, 2**63 - 1])
def test_any_seed_proposes_and_is_resumed(study, sampler, seed):
    """The seed of a resumed search is the next one, which may lie beyond NumPy's 32 bits."""
    changes = {"run.sampler": sampler, "run.seed": seed}
    asking = study(changes)
    asking.tell(asking.ask().number, FIGURES)
    assert study(changes).ask().number == 1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_the_same_seed_proposes_the_same(study, sampler):
    changes = {"run.sampler": sampler}
    first, again = (run(study(changes, folder=f), 7) for f in ("one", "two"))
    assert first == again
    assert run(study({**changes, "run.seed": 1}, folder="three"), 2) != first[:2]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_a_resumed_sampler_does_not_repeat_itself(study, sampler):
    changes = {"run.sampler": sampler, "run.trials": 40}
    before = run(study(changes), 4)
    after = run(study(changes), 4)
    rates = [v["student.training.lr"] for v in before + after]
    assert len(set(rates)) == 8


def test_a_grid_visits_every_leaf_once_and_ends(study):
    search = {
        "assistants.networks": {"chain": {"of": ["cnn6", "cnn4"], "at_most": 1}},
        "assistants.links.*.training.lr": {"log_uniform": [0.01, 0.1]},
        "student.training.epochs": {"integers": [1, 5, 2]},
    }
    asking = study({"search": search, "run.sampler": "grid", "run.grid_points": 2})
    found = [json.dumps(p.values) for p in iter(asking.ask, None)]
    expected = []
    for epochs in (1, 3, 5):
        for chain in ([], ["cnn4"], ["cnn6"]):
            for rate in (0.01, 0.1) if chain else (None,):
                links = {f"assistants.links.{name}.training.lr": rate for name in chain}
                expected.append({"assistants.networks": chain, **links, "epochs": epochs})
    renamed = [json.loads(v.replace("student.training.epochs", "epochs")) for v in found]
    assert sorted(map(rounded, renamed)) == sorted(map(rounded, expected))
    assert asking.ask() is None


def rounded(values):
    plain = {k: round(v, 9) if isinstance(v, float) else v for k, v in values.items()}
    return json.dumps(plain, sort_keys=True)


def test_a_grid_goes_on_where_it_was_stopped(study):
    changes = {"run.sampler": "grid", "run.grid_points": 2}
    whole = [p.graph.student.key for p in iter(study(changes, folder="whole").ask, None)]
    assert len(set(whole)) == 2 * 2 * 2 * 2
    found = []
    for stop in (1, 4, 6, 20):
        asking = study(changes)
        for proposal in itertools.islice(iter(asking.ask, None), stop):
            found.append(proposal.graph.student.key)
            asking.tell(proposal.number, figures())
        if stop == 4:  # between two steps of asking
            asking._study.enqueue_trial(next(asking._grid))
        if stop == 6:
            asking._study.enqueue_trial(next(asking._grid))
            asking._study.ask()
    assert found == whole


def test_importances_know_what_mattered(study):
    asking = study({"run.sampler": "random", "run.trials": 40})
    assert asking.importances() == {}
    run(asking, 40)
    found = asking.importances()
    assert max(found, key=found.get) in {
        "assistants.networks.cnn6",
        "student.objective.soft_targets.weight",
    }
    assert sum(found.values()) == pytest.approx(1.0)


def test_an_experiment_without_a_search_has_one_proposal_after_another(tiny, tmp_path):
    told = copy.deepcopy(tiny)
    del told["search"]
    asking = Study(load_experiment(told), tmp_path / "run")
    assert asking.ask().values == {}
    assert asking.tell(0, figures()).state == "finished"


# In a database


def test_a_study_in_a_database_goes_on_under_the_runs_own_name(study, tmp_path):
    database = f"sqlite:///{tmp_path}/studies.db"
    first, other = study(study=database), study(study=database, folder="elsewhere/run")
    for asking in (first, other):
        asking.tell(asking.ask().number, figures())
    number = first.ask().number
    first.close()
    again = study(study=database)
    assert [(trial.number, trial.state) for trial in again.trials()] == [
        (0, "finished"),
        (1, "running"),
    ]
    assert again.ask().number == number == 1
    assert not (tmp_path / "run" / "study.journal").exists()
    names = [json.loads(f.read_text())["name"] for f in sorted(tmp_path.rglob("study.json"))]
    assert sorted(names)[0] == "run"
    assert sorted(names)[1].startswith("run-")
    other.close()
    again.close()


def curve_of(asking, number):
    return asking._study.trials[number].intermediate_values


def test_values_by_epoch_are_in_the_study(study):
    asking = study()
    asking.ask()
    for epoch, value in ((1, 0.5), (2, 0.75), (2, 0.1), (3, float("nan"))):
        asking.report(0, epoch, value)
    assert not asking.should_prune(0)
    asking.prune(0, figures(epoch=2.0), "stopped by scheduler at epoch 2")
    assert curve_of(asking, 0) == {1: 0.5, 2: 0.75}


def test_a_resumed_trial_reports_no_epoch_twice(study, recwarn):
    before = study()
    before.ask()
    before.report(0, 1, 0.5)
    after = study()
    assert after.ask().number == 0
    for epoch in (1, 2):
        after.report(0, epoch, 0.25)
    assert curve_of(after, 0) == {1: 0.5, 2: 0.25}
    assert not [w for w in recwarn if "already reported" in str(w.message)]


def test_several_goals_have_no_values_by_epoch(study):
    goal = {"maximize": ["student.val_accuracy"], "minimize": ["student.flops"]}
    asking = study({"goal": goal})
    asking.ask()
    asking.report(0, 1, 0.5)
    assert curve_of(asking, 0) == {}


def test_a_pruner_of_the_study_decides(study):
    asking = study({"run.scheduler": {"optuna_median": {"grace_epochs": 2, "min_trials": 1}}})
    stops = []
    for number, value in enumerate((0.5, 0.25)):
        asking.ask()
        for epoch in (1, 2):
            asking.report(number, epoch, value)
            stops.append(asking.should_prune(number))
        if not number:
            asking.tell(number, figures())
    assert stops == [False, False, False, True]


def test_only_complete_trials_count_for_importances(study):
    """Optuna gives a pruned trial its last value by epoch."""
    asking = study()
    for number in range(5):
        asking.ask()
        asking.report(number, 1, 0.5)
        asking.prune(number, figures(), "stopped by scheduler at epoch 1")
    assert asking.importances() == {}
