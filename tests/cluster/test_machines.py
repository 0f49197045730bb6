"""Machines that are lost, with or without notice: results stay, and running work goes on."""

import pytest
import ray

from stillhouse.search.cluster.connection import NAMESPACE
from stillhouse.search.execution.scheduler import scheduler_actor_name
from stillhouse.search.monitoring.events import StageChanged, TrialReported
from tests.support.waiting import within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    # Ray does not wait for all processes of a node that it kills.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
]


def test_a_stage_goes_on_when_its_machine_is_lost(machines, stage, new_client, starts, library, go):
    """On another machine, from the last saved epoch; its parents are not built again."""
    cluster = machines(1, 1)
    parent = stage("Steady", "parent")
    child = stage("Steady", "child", parent, length=8, gate=3)
    heard = []
    client = new_client(lambda event: heard.append((event.label, event.state, event.epoch)))
    client.submit([parent, child])
    assert within(300, lambda: ("child", "running", 3) in heard)
    ((_, node),) = starts("child")
    cluster.lose(cluster.called(node))
    go()
    assert client.build([child]) == {}
    assert len(starts("parent")) == 1
    (began, first), (resumed, second) = starts("child")
    assert (began, first) == (0, node)
    assert resumed == 3
    assert second != node
    epochs = [epoch for label, state, epoch in heard if (label, state) == ("child", "running")]
    assert [epoch for epoch in epochs if epoch] == list(range(1, 9))  # 0: a worker takes it up
    assert library.open_artifact(child.key).record.figures == {"sum": 2.0}


def test_a_trial_goes_on_when_its_machine_is_lost(machines, search, undisturbed):
    """The search has the same results, bit for bit."""
    cluster, lost = machines(2, 2), []

    def lose(event):
        if not lost and isinstance(event, TrialReported) and event.epoch == 3:
            lost.append(next(node for node, _ in cluster.workers("ray::Trial")))
            cluster.lose(lost[0])

    done = search(listen=lose)
    assert lost
    assert done.states() == {"finished": 4}
    assert len(done.of(StageChanged, label="teacher", state="made")) == 1
    for ours, theirs in zip(done.study.trials(), undisturbed(), strict=True):
        assert ours.stage_keys == theirs.stage_keys
        assert ours.figures["val_nll"] == theirs.figures["val_nll"]
        assert (
            done.library.open_artifact(ours.stage_keys["student"]).record.figures["val_accuracy"]
            == (theirs.figures["val_accuracy"])
        )


def test_a_machine_that_will_be_taken_away_saves_every_epoch(
    machines, stage, new_client, starts, library, go
):
    """Otherwise a stage saves every 20 seconds. Ray starts nothing new on such a machine."""
    cluster = machines(1, 1)
    doomed = stage("Thrifty", "doomed", length=12, gate=8, pause=1.0)
    later = [stage("Steady", f"later-{i}") for i in range(2)]
    epochs = [0]
    client = new_client(lambda event: event.label == "doomed" and epochs.append(event.epoch))
    client.submit([doomed])
    assert within(300, lambda: 2 in epochs)
    ((_, node),) = starts("doomed")
    assert library.load_scratch(doomed.key) is None
    cluster.warn(cluster.called(node), seconds=600)
    assert client.build(later) == {}
    assert within(120, lambda: 8 in epochs)
    cluster.lose(cluster.called(node))
    go()
    assert client.build([doomed]) == {}
    _, (resumed, other) = starts("doomed")
    assert resumed == 8
    assert other != node
    assert all(where == other for each in later for _, where in starts(each.label))


def test_a_trial_on_a_machine_that_was_taken_away_goes_on(machines, search, undisturbed):
    """Tune does not count this as a failure."""
    cluster, taken = machines(2, 2), []

    def take(event):
        if isinstance(event, TrialReported) and event.epoch == 3 and not taken:
            taken.append(next(node for node, _ in cluster.workers("ray::Trial")))
            cluster.warn(taken[0], seconds=5)
        elif isinstance(event, TrialReported) and event.epoch == 10 and len(taken) == 1:
            taken.append(None)
            cluster.lose(taken[0])

    done = search(listen=take)
    assert len(taken) == 2
    assert done.states() == {"finished": 4}
    assert [t.figures["val_nll"] for t in done.study.trials()] == [
        t.figures["val_nll"] for t in undisturbed()
    ]


def test_the_scheduler_stays_with_the_driver(machines, stage, new_client, library):
    """Other machines come and go, but the driver's machine must stay."""
    machines(1, 1, 1)
    assert new_client().build([stage("Steady", "any")]) == {}
    scheduler = ray.get_actor(scheduler_actor_name(library), namespace=NAMESPACE)
    (found,) = [
        a for a in ray._private.state.actors().values() if a["ActorID"] == scheduler._actor_id.hex()
    ]
    assert found["Address"]["NodeID"] == ray.get_runtime_context().get_node_id()
