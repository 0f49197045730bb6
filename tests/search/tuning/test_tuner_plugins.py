"""Contracts of samplers and schedulers: every file in the two folders keeps them."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import ray
from ray.tune.schedulers import FIFOScheduler, HyperBandScheduler

from stillhouse.search.experiment.schema import RunSettings
from stillhouse.search.experiment.tuner_settings import SAMPLERS, SCHEDULERS
from stillhouse.search.tuning import optuna_private, tune_private
from stillhouse.search.tuning.schedulers._pruner import PrunerConfig

ROOT = Path(__file__).parents[3]
SCHEDULER_CLASSES = [SCHEDULERS.load(name) for name in SCHEDULERS.names()]
PRUNERS = [plugin for plugin in SCHEDULER_CLASSES if issubclass(plugin, PrunerConfig)]


def name_of(plugin):
    return plugin.kind


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_a_sampler_is_built_and_proposes_within_the_space(name):
    sampler = SAMPLERS.load(name)().build(2**32 - 1, 6)
    assert isinstance(sampler, optuna.samplers.BaseSampler)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0) ** 2, n_trials=6)
    assert all(0.0 <= trial.params["x"] <= 1.0 for trial in study.trials)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_equal_seeds_give_equal_proposals(name):
    proposals = []
    for _ in range(2):
        study = optuna.create_study(sampler=SAMPLERS.load(name)().build(3, 6))
        study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=6)
        proposals.append([trial.params for trial in study.trials])
    assert proposals[0] == proposals[1]


@pytest.mark.parametrize("plugin", SCHEDULER_CLASSES, ids=name_of)
@pytest.mark.parametrize("max_epochs", [1, 100])
def test_a_scheduler_is_built_also_for_few_epochs(plugin, max_epochs):
    scheduler = plugin().build(max_epochs)
    assert isinstance(scheduler, FIFOScheduler)
    assert not isinstance(scheduler, HyperBandScheduler)  # it pauses trials


@pytest.mark.parametrize("plugin", PRUNERS, ids=name_of)
@pytest.mark.parametrize("max_epochs", [1, 100])
def test_a_pruner_stops_the_worst_trial_and_not_the_best(plugin, max_epochs):
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=plugin().build_pruner(max_epochs),
        study_name="pruned",
    )

    def stopped_at(values):
        trial = study.ask()
        for epoch, value in enumerate(values, 1):
            trial.report(value, epoch)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return epoch
        study.tell(trial, values[-1])
        return None

    for _ in range(12):
        assert stopped_at([0.5 + epoch / 100 for epoch in range(30)]) is None or max_epochs == 1
    if max_epochs == 100:
        ends = [stopped_at([0.1] * 30) for _ in range(6)]
        assert any(end is not None and end >= 3 for end in ends)
        assert all(end is None or end >= 3 for end in ends)


@pytest.mark.parametrize("field", ["sampler", "scheduler"])
def test_every_plugin_is_read_and_written(field):
    registry = {"sampler": SAMPLERS, "scheduler": SCHEDULERS}[field]
    for name in registry.names():
        for form in (name, {name: {}}, {name: None}, {"kind": name}):
            run = RunSettings.parse({field: form})
            assert getattr(run, field) == registry.load(name)()
            assert RunSettings.parse(run.model_dump(mode="json", exclude_defaults=True)) == run
            assert RunSettings.parse(run.plain()) == run


def test_the_default_is_left_out_when_a_file_is_written():
    assert RunSettings().model_dump(exclude_defaults=True) == {}
    asha = RunSettings.parse({"scheduler": "asha", "sampler": "grid"})
    written = asha.model_dump(mode="json", exclude_defaults=True)
    assert written == {"scheduler": {"asha": {}}, "sampler": "grid"}


def test_reading_settings_imports_neither_optuna_nor_ray():
    code = (
        "import sys\n"
        "from stillhouse.search.experiment.tuner_settings import SAMPLERS, SCHEDULERS\n"
        "for registry in (SAMPLERS, SCHEDULERS):\n"
        "    for name in registry.names():\n"
        "        registry.load(name)()\n"
        "print(sorted({'optuna', 'ray', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "library"), [(optuna_private, optuna), (tune_private, ray)], ids=["optuna", "tune"]
)
def test_private_interfaces_were_seen_in_the_installed_version(module, library):
    """After an update: read the module, run the tests of this folder, then change the version."""
    assert library.__version__ == module.SEEN_IN


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("._trial_id", "search/tuning/optuna_private.py"),
        (".temporary_state", "search/tuning/tune_private.py"),
    ],
)
def test_private_names_are_in_one_file(name, home):
    files = (ROOT / "search").rglob("*.py")
    users = [file for file in files if name in file.read_text(encoding="utf-8")]
    assert [file.relative_to(ROOT).as_posix() for file in users] == [home]
