"""Drivers that are killed, lose their head, or share a library: real processes of the command."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from stillhouse.search.artifacts.store import Library
from stillhouse.search.driver.launch import launch, resume
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.tuning.study_reading import StudyReader
from tests.support.processes import descendants, is_alive, titled
from tests.support.waiting import within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    # Ray does not wait for all processes of a node that it kills.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
]
COMMAND = [sys.executable, "-c", "from stillhouse.search.cli import main; main()"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Command:
    """A running ``stillhouse`` command and its output."""

    def __init__(self, name, *arguments, **environment):
        self.output = Path(f"output-{name}")
        with self.output.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def printed(self, seconds, *texts):
        """Wait until one of the texts has been printed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if any(text in self.text for text in texts):
                return
            time.sleep(0.1)
        raise AssertionError(f"{texts} never came:\n{self.text}")

    @property
    def text(self):
        return self.output.read_text(encoding="utf-8")

    def ends(self, seconds=400):
        """Its exit status."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it never ended:\n{self.text}") from None


def written(plain, **changes):
    """Write the experiment's file; returns its name."""
    Path("faults.yaml").write_text(yaml.safe_dump({**plain, **changes}), encoding="utf-8")
    return "faults.yaml"


def made_at(uri):
    return {record.key: record.made_at for record in Library(uri).records()}


def figures(trials):
    return [(t.number, t.state, t.stage_keys, t.figures.get("val_nll")) for t in trials]


def trials(run):
    """The results of a run's trials."""
    folder = Path("stillhouse-runs", run).absolute()
    return figures(StudyReader(load_experiment(folder / "experiment.yaml"), folder).trials())


@pytest.fixture
def undisturbed(plain, tmp_path):
    """The results of the trials without faults."""

    def found():
        apart = {**plain, "library": str(tmp_path / "undisturbed"), "name": "undisturbed"}
        apart["tracking"] = f"sqlite:///{tmp_path}/undisturbed.db"
        return figures(launch(load_experiment(apart), inline=True).outcome.trials)

    return found


def teacher_builders(pid):
    """The processes below ``pid`` that build the teacher."""
    return {each for each in descendants(pid) if titled(each, "ray::teacher")}


@pytest.mark.parametrize("when", ["in a stage", "in a trial"])
def test_a_driver_that_was_killed_is_resumed(plain, undisturbed, when):
    """With SIGKILL, while it waits for a stage or runs trials: nothing is repeated."""
    plain["stages"]["teacher"]["training"] = {"epochs": 150, "batch_size": 32, "lr": 0.05}
    command = Command("killed", "launch", written(plain))
    if when == "in a stage":
        assert within(300, lambda: teacher_builders(command.process.pid))
    else:
        command.printed(400, "[1/4]")
    belonging = descendants(command.process.pid) - {command.process.pid}
    command.process.send_signal(signal.SIGKILL)
    assert command.ends() == -signal.SIGKILL
    assert belonging
    # Ray's agents first try to tell of it, for a minute or more.
    assert within(300, lambda: not any(map(is_alive, belonging))), "Ray outlives its driver"
    before = made_at(plain["library"])

    launched = resume("faults-1", inline=True)
    assert launched.state == "finished"
    assert before.items() <= made_at(plain["library"]).items()
    assert figures(launched.outcome.trials) == undisturbed()
    assert launched.unsent == 0


def test_a_search_goes_on_when_the_head_was_started_anew(plain, undisturbed, works):
    """The library and the run's folder survive; Ray keeps nothing that is needed."""
    assert works.Steady
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    soon = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    command = Command("headless", "launch", written(plain), "--address", cluster.address, **soon)
    try:
        command.printed(400, "[1/4]")
    finally:
        cluster.remove_node(cluster.head_node, allow_graceful=False)
    assert command.ends(120) != 0
    before = made_at(plain["library"])
    assert before

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    try:
        again = Command("again", "resume", "faults-1", "--address", cluster.address)
        assert again.ends() == 0, again.text
    finally:
        cluster.remove_node(cluster.head_node)
    assert before.items() <= made_at(plain["library"]).items()
    assert trials("faults-1") == undisturbed()


def test_two_drivers_on_one_cluster_make_each_stage_once(plain, works):
    """Both wait for the one task that builds the teacher, and both report the teacher as built."""
    assert works.Steady
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False}
    )
    try:
        both = [
            Command(name, "launch", written(plain), "--address", cluster.address)
            for name in ("one", "other")
        ]
        makers = set()
        while any(command.process.poll() is None for command in both):
            makers |= teacher_builders(os.getpid())
            time.sleep(0.02)
        assert [command.ends(500) for command in both] == [0, 0], [c.text for c in both]
    finally:
        cluster.remove_node(cluster.head_node)
    assert len(makers) == 1
    for command in both:
        assert re.findall(r"stage (\S+) (?:made|reused)", command.text) == ["teacher"]
    _agree(plain)


def test_two_drivers_in_processes_of_their_own_are_correct(plain, undisturbed):
    """They do not know each other: both build the same artifacts, and each is complete."""
    both = [Command(name, "launch", written(plain), "--inline") for name in ("one", "other")]
    assert [command.ends(500) for command in both] == [0, 0], [c.text for c in both]
    _agree(plain)
    assert trials("faults-1") == undisturbed()


def _agree(plain):
    """Both have the same results, and every artifact is intact."""
    assert trials("faults-1") == trials("faults-2")
    assert Counter(state for _, state, _, _ in trials("faults-1")) == {"finished": 4}
    library = Library(plain["library"])
    keys = list(library.keys())
    assert len(keys) == 5
    for key in keys:
        assert library.open_artifact(key).record.key == key
    assert {n.run.name for n in library.all_references().values()} == {"faults-1", "faults-2"}
