"""Faults of the processes that build stages, and of the stage scheduler."""

import threading

import pytest
import ray

from stillhouse.search.cluster.connection import NAMESPACE
from stillhouse.search.execution.scheduler import MAX_RETRIES, scheduler_actor_name
from tests.support.waiting import within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("machine"),
    # Ray does not wait for all processes of a node that it kills.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
]


def scheduler(library):
    return ray.get_actor(scheduler_actor_name(library), namespace=NAMESPACE)


# The worker


def test_a_stage_that_kills_its_worker_each_time_fails_with_one_line(stage, new_client, starts):
    doomed = stage("Killed", "doomed")
    (said,) = new_client().build([doomed]).values()
    assert said.startswith(f"lost its worker {MAX_RETRIES + 1} times: ")
    assert "\n" not in said
    assert [done for done, _ in starts("doomed")] == [0, 2, 2, 2]


def test_a_stage_that_gets_further_each_time_is_not_given_up(stage, new_client, starts):
    """A long stage may lose more machines than a broken stage has attempts."""
    unlucky = stage("Unlucky", "unlucky", length=MAX_RETRIES + 4)
    assert new_client().build([unlucky]) == {}
    assert [done for done, _ in starts("unlucky")] == list(range(MAX_RETRIES + 4))


@pytest.mark.parametrize("how", ["sleep", "interpreter"])
def test_a_stage_that_hangs_is_started_again(stage, new_client, starts, library, how):
    """From the last saved epoch, whether it sleeps or holds the interpreter."""
    hanging = stage("Hanging", "hanging", how=how)
    after = stage("Steady", "after", hanging)
    assert new_client(hang_after=15.0).build([after]) == {}
    assert [done for done, _ in starts("hanging")] == [0, 2]
    assert library.record(after.key).figures == {"sum": 2.0}


def test_a_stage_that_hangs_for_ever_fails_with_one_line(stage, new_client, starts):
    hanging = stage("Hanging", "hanging", always=True)
    sound = stage("Steady", "sound")
    failed = new_client(hang_after=15.0).build([hanging, sound])
    assert failed == {
        hanging.key: f"gave no report for 15 s, in each of {MAX_RETRIES + 1} attempts; where a "
        "report takes longer, set run.hang_after"
    }
    assert [done for done, _ in starts("hanging")] == [0, 2, 2, 2]


def test_waiting_for_a_slot_is_not_hanging(stage, new_client, starts):
    """Two stages and one slot: the second waits longer than ``hang_after``."""
    both = [stage("Steady", name, length=15, pause=2.0) for name in ("one", "other")]
    assert new_client(hang_after=20.0).build(both) == {}
    assert [len(starts(each.label)) for each in both] == [1, 1]


def test_a_limit_of_the_stages_own_is_a_program_error(stage, new_client, starts):
    own = stage("StopsItself", "own")
    assert new_client(hang_after=60.0).build([own]) == {
        own.key: "TimeoutError: the data set did not answer"
    }
    assert len(starts("own")) == 1


# Memory


def test_a_program_that_asks_for_too_much_memory_fails_at_once(stage, new_client, starts):
    large = stage("TooLarge", "large")
    (said,) = new_client().build([large]).values()
    assert said.startswith("out of memory; a smaller batch_size or network, or fewer at once")
    assert "\n" not in said
    assert len(starts("large")) == 1


# The scheduler


def test_a_scheduler_that_is_killed_is_replaced(stage, new_client, starts, library, go):
    """Its results stay; a running stage goes on from the last saved epoch."""
    parent = stage("Steady", "parent")
    child = stage("Steady", "child", parent, length=8, gate=3)
    heard = []
    client = new_client(lambda event: heard.append((event.label, event.state, event.epoch)))
    client.submit([parent, child])
    assert within(300, lambda: ("child", "running", 3) in heard)
    ray.kill(scheduler(library))
    assert within(300, lambda: len(starts("child")) == 2)
    go()
    assert client.build([child]) == {}
    assert len(starts("parent")) == 1
    assert [done for done, _ in starts("child")] == [0, 3]
    assert library.open_artifact(child.key).record.figures == {"sum": 2.0}


def test_a_stage_placed_while_there_is_no_scheduler_is_made(stage, new_client, library):
    client = new_client()
    assert client.build([stage("Steady", "first")]) == {}
    ray.kill(scheduler(library))
    assert client.build([stage("Steady", "second")]) == {}


def test_a_driver_that_was_silent_for_long_is_heard_again(stage, new_client, starts, library, go):
    """A laptop that slept: it was evicted, while another driver kept the scheduler alive."""
    awake, heard = threading.Event(), []

    def sleep(event):
        heard.append(event.epoch)
        if 2 in heard:
            awake.wait(300)

    client = new_client(sleep)
    wanted = stage("Steady", "wanted", length=4, gate=2)
    client.submit([wanted])
    assert within(300, lambda: 2 in heard)
    actor = scheduler(library)
    ray.get(actor.poll_events.remote("another driver", 0))
    ray.get(actor.unregister.remote(ray.get_runtime_context().get_job_id()))
    awake.set()
    assert within(300, lambda: len(starts("wanted")) == 2)
    go()
    assert client.build([wanted]) == {}
    assert [done for done, _ in starts("wanted")] == [0, 2]
    assert scheduler(library) == actor


def test_a_listener_that_breaks_ends_the_search_with_its_reason(stage, new_client):
    """For example on a full disk; without the poll thread the driver would wait for ever."""

    def broken(_):
        raise OSError("No space left on device")

    with pytest.raises(RuntimeError, match="listener of the search failed: OSError: No space"):
        new_client(broken).build([stage("Steady", "any")])
