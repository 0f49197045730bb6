"""Tune stands still while it has nothing to run, and its idle actors keep every slot."""

import pytest
from ray.tune.execution import insufficient_resources_manager as tunes

from stillhouse.search.driver.launch import launch
from stillhouse.search.monitoring.events import StageChanged, TrialStarted
from stillhouse.search.tuning import ray_backend

STUDENTS = 4


@pytest.mark.ray
def test_a_stage_is_made_though_idle_actors_hold_every_slot(load, tmp_path, monkeypatch):
    """Students without an assistant fill both slots; those that follow need a missing one."""
    monkeypatch.chdir(tmp_path)
    space = {
        "assistants.networks": {"choice": [[], ["cnn4"]]},
        "student.seed": {"choice": list(range(STUDENTS))},
    }
    run = {"trials": 2 * STUDENTS, "sampler": "grid", "concurrent": 2}
    experiment = load({f"run.{name}": value for name, value in run.items()}, search=space)
    heard = []
    launched = launch(experiment, observers=[heard.append])
    assert [trial.state for trial in launched.outcome.trials] == ["finished"] * 2 * STUDENTS
    made = [
        isinstance(e, StageChanged) and e.label == "assistants/cnn4" and e.state == "made"
        for e in heard
    ]
    needing = [isinstance(e, TrialStarted) and e.number == STUDENTS for e in heard]
    assert made.count(True) == 1
    assert needing.index(True) < made.index(True)


def test_hours_without_any_trial_do_not_end_a_search(monkeypatch):
    """Tune warns when nothing has run for a while, and its warning needs a trial to speak of."""
    now = [0.0]
    monkeypatch.setattr(tunes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tunes, "_is_ray_cluster", lambda: True)
    for name in ("", "_AUTOSCALER"):
        monkeypatch.setenv(f"TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S{name}", "60")
    tunes._get_insufficient_resources_warning_threshold.cache_clear()
    with pytest.raises(IndexError):  # as it comes from the box
        _waits(now)
    ray_backend._configure_tune(2)
    tunes._get_insufficient_resources_warning_threshold.cache_clear()
    _waits(now)


def _waits(now):
    watch = tunes._InsufficientResourcesManager()
    for _ in range(9):  # Tune looks every ten minutes
        watch.on_no_available_trials([])
        now[0] += 600.0
