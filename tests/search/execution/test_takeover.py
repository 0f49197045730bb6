"""A trial builds a stage if it waits for the stage and its driver has requested it."""

import asyncio

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.execution.job import StageJob
from stillhouse.search.execution.takeover import TakeoverMatcher
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.stages.core.stage import Operation, Stage


def job(name, workers=1, clients=("driver",)):
    class Wide(Operation):
        @property
        def workers(self):
            return workers

    stage = Stage(name, Wide(), DataConfig.parse({"source": "digits", "limit": 50 + len(name)}))
    return StageJob(stage, ResourceSettings(), None, [], set(clients))


def handed_over(wanted, *offers, crowded=lambda *_: True, patience=0.02):
    """The clients of the trials that have to build a job's stage within some time."""

    async def main():
        takeovers = TakeoverMatcher(crowded, patience)
        with takeovers.request([wanted]) as taken:
            opened = [takeovers.offer(client, {f.stage.key}, "node") for client, f in offers]
            replies = [each.__enter__() for each in opened]
            await asyncio.wait({taken}, timeout=0.2)
            asked = [c for (c, _), reply in zip(offers, replies, strict=True) if reply.done()]
            assert taken.done() == bool(asked)
            for reply in filter(asyncio.Future.done, replies):
                assert reply.result().stages == (wanted.stage,)
                assert takeovers.receive_report(reply.result().ticket, {})
            tickets = [reply.result().ticket for reply in replies if reply.done()]
        assert not any(takeovers.receive_report(ticket, {}) for ticket in tickets)
        return asked

    return asyncio.run(main())


def test_one_trial_that_waits_for_a_stage_is_asked():
    assert handed_over(job("a"), ("driver", job("a")), ("driver", job("a"))) == ["driver"]


def test_a_trial_makes_nothing_that_it_does_not_wait_for():
    assert handed_over(job("a"), ("driver", job("other"))) == []


def test_a_trial_makes_nothing_that_its_own_driver_did_not_ask_for():
    """Another driver may give a stage other resources, such as a GPU."""
    offers = [("stranger", job("a")), ("driver", job("a"))]
    assert handed_over(job("a"), *offers) == ["driver"]


def test_a_task_gets_some_time_to_begin():
    assert handed_over(job("a"), ("driver", job("a")), patience=60.0) == []


def test_several_workers_are_waited_for_while_they_may_find_room():
    room, wide = [3], job("a", workers=2)

    def crowded(which, trials):
        assert (which, trials) == (wide, 1)
        room[0] -= 1
        return room[0] < 1  # the cluster shrinks meanwhile

    assert handed_over(wide, ("driver", wide), crowded=lambda *_: False) == []
    assert handed_over(wide, ("driver", wide), crowded=crowded) == ["driver"]
