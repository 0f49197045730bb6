"""The scheduler sends each driver its new events, and drops events that all drivers know."""

import asyncio

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.execution.scheduler import StageScheduler
from stillhouse.search.stages.core.stage import Operation, Stage

STAGE = Stage("work", Operation(), DataConfig.parse({"source": "digits"}))


def told(changes):
    return [change.epoch for change in changes]


def test_news_is_kept_until_all_have_heard_it(library):
    scheduler = StageScheduler(library.uri)

    async def talk():
        first = await scheduler.subscribe("a")
        assert first == 0
        for epoch in (1, 2, 3):
            scheduler._publish_event(STAGE, "running", epoch)
        assert await scheduler.subscribe("b") == 3
        heard, changes, _ = await scheduler.poll_events("a", first)
        assert (heard, told(changes)) == (3, [1, 2, 3])
        assert told((await scheduler.poll_events("a", first))[1]) == [1, 2, 3], (
            "its answer may be lost"
        )
        scheduler._publish_event(STAGE, "running", 4)
        heard, changes, _ = await scheduler.poll_events("a", heard)
        assert (heard, told(changes)) == (4, [4])
        assert told(scheduler._events) == [4]  # b does not know that one
        late, changes, _ = await scheduler.poll_events("b", 3)
        assert (late, told(changes)) == (4, [4])
        assert await scheduler.poll_events("a", heard) == (4, [], True)
        assert await scheduler.poll_events("b", late) == (4, [], True)
        assert scheduler._events == []
        return heard

    assert asyncio.run(talk()) == 4


def test_a_driver_that_left_holds_up_no_news(library):
    scheduler = StageScheduler(library.uri)

    async def talk():
        await scheduler.subscribe("a")
        since = await scheduler.subscribe("gone")
        for epoch in range(100):
            scheduler._publish_event(STAGE, "running", epoch)
        heard, changes, _ = await scheduler.poll_events("a", since)
        assert len(changes) == 100
        await scheduler.poll_events("a", heard)
        assert len(scheduler._events) == 100
        await scheduler.unregister("gone")
        assert await scheduler.poll_events("a", heard) == (100, [], True)
        assert scheduler._events == []
        # One that was thought gone and asks all the same hears what is left.
        scheduler._publish_event(STAGE, "made")
        assert [c.state for c in (await scheduler.poll_events("gone", since))[1]] == ["made"]

    asyncio.run(talk())
