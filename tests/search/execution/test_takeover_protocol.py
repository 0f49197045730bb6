"""The protocol between the scheduler and a trial when no slot is free; without Ray."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution import builder as making
from stillhouse.search.execution import placement, waiting
from stillhouse.search.execution.scheduler import MAX_RETRIES, StageScheduler
from stillhouse.search.execution.tasks import StageRun, TrialLost
from stillhouse.search.execution.waiting import StageFailed, await_stages
from stillhouse.search.execution.watchdog import stage_watchdog
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.stages.core.stage import BatchOperation, Operation, Stage, StageResult

DRIVER = "driver"


class Noted(Operation):
    """Logs every start with its epoch."""

    kind: ClassVar[str] = "noted"
    starts: ClassVar[list[tuple[str, int]]] = []
    goes_wrong: ClassVar[dict[str, Exception]] = {}
    name: str
    spread: int = 1

    @property
    def workers(self):
        return self.spread

    def run(self, data, parents, context):
        saved = context.checkpointer.load()
        done = int(saved["epoch"]) if saved else 0
        self.starts.append((self.name, done))
        for epoch in range(done, 4):
            if epoch == 2 and (error := self.goes_wrong.get(self.name)):
                raise error
            context.checkpointer.save({"epoch": torch.tensor(epoch + 1)})
            yield {"epoch": epoch + 1.0}
        return StageResult({"sum": torch.ones(1)}, {"sum": 1.0})


class Carried(Noted, BatchOperation):
    """Built in one pass with others of its kind."""

    kind: ClassVar[str] = "carried"

    @property
    def batch_key(self):
        return "all"

    @classmethod
    def run_batch(cls, operations, *_):
        cls.starts.append((" ".join(sorted(work.name for work in operations)), 0))
        yield [{"epoch": 1.0} for _ in operations]
        return [StageResult({"sum": torch.ones(1)}, {"sum": 1.0}) for _ in operations]


class NoSlot(StageRun):
    """A task that no worker starts."""

    async def next_message(self):
        await asyncio.Event().wait()

    def cancel(self):
        pass


class Actor:
    """A trial's actor; its call to Ray ends with the trial."""

    def __init__(self, loop):
        self._loop, self._left = loop, asyncio.Event()
        self.__ray_ready__ = self

    async def remote(self):
        await self._left.wait()

    def leave(self):
        self._loop.call_soon_threadsafe(self._left.set)


class Method:
    def __init__(self, talk, method):
        self._talk, self._method = talk, method

    def remote(self, *args):
        return self._talk.ask(self._method(*args))


class Talk:
    """A scheduler in a thread of its own, and trials in others."""

    def __init__(self, library):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.library = library
        self.scheduler = StageScheduler(library.uri)
        self.scheduler._placement.takeovers.delay_s = 0.05
        self.actors = threading.local()
        self.trials = ThreadPoolExecutor(4)
        self.ask(self.scheduler.subscribe(DRIVER)).result(60)

    def ask(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def __getattr__(self, name):
        return Method(self, getattr(self.scheduler, name))

    # What a trial asks of Ray

    def get_runtime_context(self):
        return self

    def get_job_id(self):
        return DRIVER

    @property
    def current_actor(self):
        return self.actors.here

    # What a test asks

    def request(self, *stages):
        self.ask(self.scheduler.request(DRIVER, list(stages), ResourceSettings())).result(60)

    def trial(self, *stages):
        """A trial that waits for stages; its result is the failure, or empty."""

        def waits():
            self.actors.here = Actor(self.loop)
            try:
                library = Library(self.library.uri, must_exist=True)
                await_stages(library, stages, stage_watchdog(library, "0" * 64, None))
            except StageFailed as failed:
                return str(failed)
            finally:
                self.actors.here.leave()
            return ""

        return self.trials.submit(waits)

    def told(self):
        return self.ask(self.scheduler.poll_events(DRIVER, 0)).result(60)[1]

    def close(self):
        self.ask(self.scheduler.unregister(DRIVER)).result(60)
        self.trials.shutdown()
        self.ask(self._end()).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _end(self):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def talk(library, monkeypatch):
    monkeypatch.setattr(Noted, "starts", [])
    monkeypatch.setattr(Noted, "goes_wrong", {})
    monkeypatch.setattr(placement, "submit_stages", lambda *_: NoSlot(None, num_workers=1))
    monkeypatch.setattr(placement, "_cluster_slots", lambda _: 2)
    talk = Talk(library)
    for name, value in {
        "get": lambda asked: asked.result(60),
        "get_actor": lambda *_, **__: talk,
        "get_runtime_context": lambda: talk,
    }.items():
        monkeypatch.setattr(waiting.ray, name, value)
    monkeypatch.setattr(waiting, "current_node_name", lambda: "10.0.0.1 (abc)")
    yield talk
    talk.close()


def stage(name, *parents, kind=Noted, spread=1):
    work = kind(name=name, spread=spread)
    return Stage(name, work, DataConfig.parse({"source": "digits"}), parents)


def test_trials_make_all_that_they_wait_for_and_each_stage_once(talk):
    both = stage("both")
    left, right = stage("left", both), stage("right", both)
    talk.request(left, right)
    trials = [talk.trial(both, left), talk.trial(both, right), talk.trial(both, left)]
    assert [each.result(60) for each in trials] == ["", "", ""]
    assert sorted(Noted.starts) == [("both", 0), ("left", 0), ("right", 0)]
    told = talk.told()
    assert [e.label for e in told if e.state == "made"].count("both") == 1
    running = [e for e in told if e.state == "running"]
    assert {(e.in_trial, e.node) for e in running} == {(True, "10.0.0.1 (abc)")}
    assert [e.epoch for e in running if e.label == "both"] == [0, 1, 2, 3, 4]


def test_a_program_error_fails_all_who_wait_and_is_not_tried_again(talk):
    Noted.goes_wrong["broken"] = ArithmeticError("nine is not prime")
    broken = stage("broken")
    after = stage("after", broken)
    talk.request(after)
    trials = [talk.trial(broken, after) for _ in range(2)]
    why = "broken: ArithmeticError: nine is not prime"
    assert [each.result(60) for each in trials] == [why, why]
    assert talk.trial(broken, after).result(60) == why
    assert Noted.starts == [("broken", 0)]
    Noted.goes_wrong.clear()
    talk.request(after)  # a driver that asks once more gets another attempt
    assert talk.trial(broken, after).result(60) == ""
    assert Noted.starts[1:] == [("broken", 2), ("after", 0)]


def test_what_was_removed_is_made_once_for_all_trials(talk):
    wanted = stage("wanted")
    talk.request(wanted)
    assert talk.trial(wanted).result(60) == ""
    talk.library.remove_artifact(wanted.key)
    trials = [talk.trial(wanted) for _ in range(3)]
    assert [each.result(60) for each in trials] == ["", "", ""]
    assert Noted.starts == [("wanted", 0)] * 2


def test_what_a_stage_rests_on_and_is_gone_is_made_again_first(talk):
    first = stage("first")
    after = stage("after", first)
    talk.request(first)
    assert talk.trial(first).result(60) == ""
    talk.library.remove_artifact(first.key)
    making._OPEN_ARTIFACTS.clear()
    talk.request(after)
    assert talk.trial(after).result(60) == ""
    assert Noted.starts == [("first", 0), ("first", 0), ("after", 0)]


def test_a_trial_that_is_lost_is_followed_by_the_next_that_waits(talk):
    """From the last saved epoch."""
    wanted = stage("wanted")
    talk.request(wanted)
    actor = Actor(talk.loop)
    waits = talk.wait_for_stages.remote(DRIVER, [wanted], actor, "a node")
    reply = waits.result(60)
    assert reply.stages == (wanted,)
    talk.library.save_scratch(wanted.key, {"epoch": torch.tensor(2)})
    assert talk.receive_report.remote(reply.ticket, [{"epoch": 2.0}]).result(60)
    actor.leave()
    assert talk.trial(wanted).result(60) == ""
    assert Noted.starts == [("wanted", 2)]
    assert not talk.receive_report.remote(reply.ticket, [{"epoch": 3.0}]).result(60), (
        "it is told to stop"
    )


def test_a_stage_that_loses_each_trial_is_given_up(talk):
    wanted = stage("wanted")
    talk.request(wanted)
    for _ in range(MAX_RETRIES + 1):
        actor = Actor(talk.loop)
        assert talk.wait_for_stages.remote(DRIVER, [wanted], actor, "a node").result(60).stages
        actor.leave()
    until = time.monotonic() + 60
    while not (failed := [e for e in talk.told() if e.state == "failed"]):
        assert time.monotonic() < until
    assert failed[0].reason.startswith(
        f"lost its worker {MAX_RETRIES + 1} times: {TrialLost.__name__}"
    )


def test_a_pass_is_made_as_a_pass(talk):
    some = [stage(name, kind=Carried) for name in "abc"]
    talk.request(*some)
    assert talk.trial(*some).result(60) == ""
    assert Noted.starts == [("a b c", 0)]


def test_a_stage_of_several_workers_is_made_by_one(talk):
    wide = stage("wide", spread=2)
    talk.request(wide)
    assert talk.trial(wide).result(60) == ""
    assert Noted.starts == [("wide", 0)]


def test_a_driver_that_leaves_stops_its_trial(talk):
    wanted = stage("wanted")
    talk.request(wanted)
    reply = talk.wait_for_stages.remote(DRIVER, [wanted], Actor(talk.loop), "a node").result(60)
    assert talk.receive_report.remote(reply.ticket, [{"epoch": 1.0}]).result(60)
    talk.ask(talk.scheduler.unregister(DRIVER)).result(60)
    until = time.monotonic() + 60
    while talk.receive_report.remote(reply.ticket, [{"epoch": 2.0}]).result(60):
        assert time.monotonic() < until
