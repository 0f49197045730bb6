"""Trials that hang are ended, started again, and reported as hanging."""

from pathlib import Path

import pytest

from stillhouse.search.tuning import ray_backend
from stillhouse.search.tuning.ray_backend import MAX_TRIAL_RETRIES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    # Ray does not wait for all processes of a node that it kills.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
]


@pytest.fixture
def hangs(works, plain, monkeypatch):
    """Makes the fourth epoch of trials hang that many times."""

    def prepare(times):
        monkeypatch.setattr(ray_backend, "TrialTrainable", works.HangingTrial)
        folder = Path(plain["library"])
        folder.mkdir()
        (folder / "hangs").write_text("one\n" * times, encoding="utf-8")

    return prepare


def test_a_trial_that_hangs_is_started_again(machines, hangs, search, undisturbed):
    hangs(1)
    machines(2)
    done = search({"run.hang_after": 20})
    assert not (Path(done.library.uri) / "hangs").read_text(encoding="utf-8")
    assert done.states() == {"finished": 4}
    assert [t.figures["val_nll"] for t in done.study.trials()] == [
        t.figures["val_nll"] for t in undisturbed()
    ]


def test_a_trial_that_hangs_for_ever_fails_and_says_so(machines, hangs, search):
    """The others go on."""
    hangs(MAX_TRIAL_RETRIES + 1)
    machines(1)
    done = search({"run.hang_after": 15, "run.concurrent": 1})
    assert done.states() == {"failed": 1, "finished": 3}
    (failed,) = [t for t in done.study.trials() if t.state == "failed"]
    assert failed.reason == (
        "its worker was lost, also when tried again; it gave no report for 15 s: where one takes "
        "longer, set run.hang_after"
    )
