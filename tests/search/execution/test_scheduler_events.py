"""The foundry tells each driver what is new to it, and keeps nothing that all of them know."""

import asyncio

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.execution.scheduler import Foundry
from stillhouse.search.stages.core.stage import Stage, Work

STAGE = Stage("work", Work(), DataConfig.parse({"source": "digits"}))


def told(changes):
    return [change.epoch for change in changes]


def test_news_is_kept_until_all_have_heard_it(library):
    foundry = Foundry(library.uri)

    async def talk():
        first = await foundry.listen("a")
        assert first == 0
        for epoch in (1, 2, 3):
            foundry._tell(STAGE, "running", epoch)
        assert await foundry.listen("b") == 3
        heard, changes, _ = await foundry.news("a", first)
        assert (heard, told(changes)) == (3, [1, 2, 3])
        assert told((await foundry.news("a", first))[1]) == [1, 2, 3], "its answer may be lost"
        foundry._tell(STAGE, "running", 4)
        heard, changes, _ = await foundry.news("a", heard)
        assert (heard, told(changes)) == (4, [4])
        assert told(foundry._news) == [4]  # b does not know that one
        late, changes, _ = await foundry.news("b", 3)
        assert (late, told(changes)) == (4, [4])
        assert await foundry.news("a", heard) == (4, [], True)
        assert await foundry.news("b", late) == (4, [], True)
        assert foundry._news == []
        return heard

    assert asyncio.run(talk()) == 4


def test_a_driver_that_left_holds_up_no_news(library):
    foundry = Foundry(library.uri)

    async def talk():
        await foundry.listen("a")
        since = await foundry.listen("gone")
        for epoch in range(100):
            foundry._tell(STAGE, "running", epoch)
        heard, changes, _ = await foundry.news("a", since)
        assert len(changes) == 100
        await foundry.news("a", heard)
        assert len(foundry._news) == 100
        await foundry.leave("gone")
        assert await foundry.news("a", heard) == (100, [], True)
        assert foundry._news == []
        # One that was thought gone and asks all the same hears what is left.
        foundry._tell(STAGE, "made")
        assert [c.state for c in (await foundry.news("gone", since))[1]] == ["made"]

    asyncio.run(talk())
