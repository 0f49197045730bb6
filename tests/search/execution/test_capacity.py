"""The cluster never has more tasks at once than the searches can use."""

import asyncio

import pytest

from stillhouse.search.execution.capacity import TaskLimiter
from stillhouse.search.experiment.schema import ResourceSettings

RESOURCES = ResourceSettings()


def held_at_once(limiter, tasks, stop=()):
    """The tasks with a slot, before and after some of them are cancelled."""
    counts = []

    async def hold(number, go):
        async with limiter.slot(RESOURCES):
            held.add(number)
            await go.wait()
        held.discard(number)

    async def main():
        go = asyncio.Event()
        asked = [asyncio.create_task(hold(number, go)) for number in range(tasks)]
        await asyncio.sleep(0)
        counts.append(sorted(held))
        for number in stop:
            asked[number].cancel()
            held.discard(number)
        for _ in range(3):
            await asyncio.sleep(0)
        counts.append(sorted(held))
        go.set()
        await asyncio.gather(*asked, return_exceptions=True)

    held = set()
    asyncio.run(main())
    return counts


@pytest.mark.parametrize(
    ("drivers", "there", "at_once"),
    [
        ({}, 0, 1),  # nobody says anything: one at a time
        ({"a": 3}, 0, 3),  # an empty cluster is asked for what the search can use
        ({"a": 3, "b": 2}, 0, 5),
        ({"a": 3}, 8, 8),  # nodes that are there are used
        ({"a": 50}, 8, 20),
    ],
)
def test_as_many_as_drivers_can_use_or_as_nodes_have_room_for(drivers, there, at_once):
    limiter = TaskLimiter(lambda _: there)
    for client, most in drivers.items():
        limiter.register(client, most)
    (first, _) = held_at_once(limiter, 20)
    assert first == list(range(at_once))
    assert held_at_once(limiter, 20)[0] == list(range(at_once)), "places were not given back"


def test_who_leaves_makes_room_for_the_next_in_turn():
    limiter = TaskLimiter(lambda _: 0)
    limiter.register("a", 3)
    before, after = held_at_once(limiter, 10, stop=(1, 4))
    assert before == [0, 1, 2]
    assert after == [0, 2, 3]
    limiter.register("a", 1)
    limiter.unregister("a")
    assert held_at_once(limiter, 10)[0] == [0]


def test_a_pass_is_planned_for_what_there_may_be():
    limiter = TaskLimiter(lambda _: 2)
    assert limiter.capacity(RESOURCES) == 2
    limiter.register("a", 8)
    assert limiter.capacity(RESOURCES) == 8
