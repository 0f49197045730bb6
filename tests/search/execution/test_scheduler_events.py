"""The foundry tells each driver what is new to it, and keeps nothing that all of them know."""

import asyncio

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.execution.scheduler import StageScheduler
from stillhouse.search.stages.core.stage import Operation, Stage

STAGE = Stage("work", Operation(), DataConfig.parse({"source": "digits"}))


def told(changes):
    return [change.epoch for change in changes]


def test_news_is_kept_until_all_have_heard_it(library):
    foundry = StageScheduler(library.uri)

    async def talk():
        first = await foundry.subscribe("a")
        assert first == 0
        for epoch in (1, 2, 3):
            foundry._publish_event(STAGE, "running", epoch)
        assert await foundry.subscribe("b") == 3
        heard, changes, _ = await foundry.poll_events("a", first)
        assert (heard, told(changes)) == (3, [1, 2, 3])
        assert told((await foundry.poll_events("a", first))[1]) == [1, 2, 3], (
            "its answer may be lost"
        )
        foundry._publish_event(STAGE, "running", 4)
        heard, changes, _ = await foundry.poll_events("a", heard)
        assert (heard, told(changes)) == (4, [4])
        assert told(foundry._events) == [4]  # b does not know that one
        late, changes, _ = await foundry.poll_events("b", 3)
        assert (late, told(changes)) == (4, [4])
        assert await foundry.poll_events("a", heard) == (4, [], True)
        assert await foundry.poll_events("b", late) == (4, [], True)
        assert foundry._events == []
        return heard

    assert asyncio.run(talk()) == 4


def test_a_driver_that_left_holds_up_no_news(library):
    foundry = StageScheduler(library.uri)

    async def talk():
        await foundry.subscribe("a")
        since = await foundry.subscribe("gone")
        for epoch in range(100):
            foundry._publish_event(STAGE, "running", epoch)
        heard, changes, _ = await foundry.poll_events("a", since)
        assert len(changes) == 100
        await foundry.poll_events("a", heard)
        assert len(foundry._events) == 100
        await foundry.unregister("gone")
        assert await foundry.poll_events("a", heard) == (100, [], True)
        assert foundry._events == []
        # One that was thought gone and asks all the same hears what is left.
        foundry._publish_event(STAGE, "made")
        assert [c.state for c in (await foundry.poll_events("gone", since))[1]] == ["made"]

    asyncio.run(talk())
