"""A cluster that shrinks to one slot in the middle of a search, and grows again."""

import pytest

from stillhouse.search.monitoring.events import StageChanged, TrialReported

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    # Ray does not wait for all processes of a node that it kills.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
]

STUDENTS = 4
LONG = 300
"""Epochs of an assistant, which is to be in the making when its machine is lost."""
STUDENTS_LEARN = 120
"""Epochs of a student: trials are to be left when the new machine's first worker is ready."""


@pytest.fixture
def assisted(plain):
    """Students without an assistant come first; those that follow need one or another."""
    plain["stages"]["assistants"] = {
        "do": "chain",
        "teacher": "teacher",
        "networks": ["cnn6"],
        "objective": plain["stages"]["student"]["objective"],
        "training": {**plain["stages"]["teacher"]["training"], "epochs": LONG},
    }
    plain["stages"]["student"]["teachers"] = ["assistants"]
    told = {**plain["stages"]["teacher"]["training"], "epochs": STUDENTS_LEARN}
    plain["stages"]["student"]["training"] = told
    plain["search"] = {
        "assistants.networks": {"choice": [[], ["cnn6"], ["cnn4"]]},
        "student.seed": {"choice": list(range(STUDENTS))},
    }
    plain["run"]["trials"] = 3 * STUDENTS


class Befalls:
    """Removes one of two machines during the build of an assistant, and adds another one later."""

    def __init__(self, cluster, cpus):
        self.cluster, self.cpus = cluster, cpus
        self.lost = self.gained = None
        self.trials_on = set()

    def __call__(self, event):
        if isinstance(event, StageChanged) and event.state == "running" and event.epoch:
            if event.label == "assistants/cnn6" and not self.lost:
                self.lose(event)
            elif event.label == "assistants/cnn4" and event.in_trial and not self.gained:
                self.gained = self.cluster.gain(self.cpus)
        if isinstance(event, TrialReported) and self.gained:
            for title in ("ray::Trial", "ray::ResourceTrainable"):
                self.trials_on |= {node for node, _ in self.cluster.workers(title)}

    def lose(self, event):
        """Remove the machine of the stage's task, or the one without the trial that builds it."""
        here = [node for node in self.cluster.nodes if node.node_id[:6] in event.node]
        others = [node for node in self.cluster.nodes if node not in here]
        (self.lost,) = others if event.in_trial else here
        self.cluster.lose(self.lost)


@pytest.mark.usefixtures("assisted")
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_search_goes_on_when_one_slot_is_left_and_uses_a_machine_that_joins(
    machines, search, kind
):
    """Two slots, one, and two again; meanwhile the waiting trial builds the stages."""
    cpus, resources = (1, {"cpu": 1}) if kind == "cpu" else (2, {"cpu": 0.5, "gpu": 1})
    cluster = machines(cpus, cpus, gpus=int(kind == "gpu"))
    befalls = Befalls(cluster, cpus)
    done = search({"run.resources": resources}, listen=befalls)
    assert befalls.lost
    assert befalls.gained
    assert done.states() == {"finished": 3 * STUDENTS}
    for label in ("assistants/cnn6", "assistants/cnn4"):
        assert done.of(StageChanged, label=label, state="running", in_trial=True)
        assert len(done.of(StageChanged, label=label, state="made")) == 1
    assert befalls.gained in befalls.trials_on
