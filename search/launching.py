"""From an experiment to an outcome: launch, resume, extend."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from methods.core.data.dataset import open_data
from search.address import has_secret, hushed, remedy_of
from search.announcer import Announcer
from search.assembly import rebuild
from search.baselines import baselines, held_apart
from search.bulletin import Bulletin, Watched
from search.events import Observer, SearchEnded, SearchStarted, SearchState
from search.experiment import Experiment, to_yaml
from search.factorial import cells
from search.folder import RunFolder
from search.inline import Inline
from search.ledger import Ledger
from search.library.record import Record
from search.library.store import Damaged, Library
from search.loading import load_experiment
from search.lost import Lost
from search.make import make_all, versions
from search.outcome import Outcome, Trial, winner, winners
from search.report.summary import ranking
from search.results import present, write_outcome
from search.settle import Contender, contenders
from search.stage import Artifact, Stage
from search.standing import Standing
from search.study import Study
from search.study_place import check_study
from search.tested import tested
from search.tracking import Tracker, known, prepare, resolve_uri
from search.variance import variances

log = logging.getLogger(__name__)

START = 8.0
"""Seconds of a start in which MLflow, where it has nothing to prepare, is left alone."""


@dataclass(frozen=True)
class Launched:
    """What a launch came to. ``outcome`` is what is known so far if it was interrupted."""

    folder: RunFolder
    state: SearchState
    outcome: Outcome
    tracking: str
    unsent: int


def launch(
    experiment: Experiment,
    *,
    address: str | None = None,
    inline: bool = False,
    observers: Sequence[Observer] = (),
    test: bool = False,
) -> Launched:
    """Run a search from its beginning to its report.

    Args:
        experiment: from :func:`search.load_experiment`.
        address: of a Ray cluster; none starts Ray on this machine.
        inline: everything in this process, without Ray.
        observers: called with every event, on the driver; must return at once.
        test: also measure the repeated configurations on the test split. Only ``reuse`` does:
            a search that looked at it could choose by it.

    Raises:
        ConfigError: the library, the tracking store, the study's database or the cluster cannot
            be used.
        Lost: the library or the study's database failed on the way and did not come back.
    """
    _check_study(experiment)
    folder = RunFolder.new(experiment.name)
    folder.write("experiment.yaml", to_yaml(experiment.plain()))
    return _Driver(experiment, folder, observers, test).run(address, inline, resumed=False)


def resume(
    name: str,
    *,
    address: str | None = None,
    inline: bool = False,
    trials: int = 0,
    observers: Sequence[Observer] = (),
) -> Launched:
    """Go on with a run that was stopped, or with ``trials`` more of one that had ended.

    Finished stages and trials are not repeated; what was running goes on from its last saved
    epoch, in the same MLflow runs.

    Raises:
        ConfigError: there is no such run, or its experiment is no longer valid.
        Lost: as :func:`launch`.
    """
    folder = RunFolder.find(name)
    experiment = load_experiment(folder.path / "experiment.yaml")
    _check_study(experiment)
    if trials:
        run = experiment.run.model_copy(update={"trials": experiment.run.trials + trials})
        experiment = replace(experiment, run=run)
        folder.write("experiment.yaml", to_yaml(experiment.plain()))
    return _Driver(experiment, folder, observers).run(address, inline, resumed=True)


class Workshop(Watched, Protocol):
    """Where stages are made and trials run: this process, or a Ray cluster."""

    def make(self, stages: Sequence[Stage]) -> dict[str, str]: ...

    def search(self, ledger: Ledger, trials: int) -> bool: ...

    def close(self) -> None: ...


class _Driver:
    """One launch: holds the parts while they work together."""

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        observers: Sequence[Observer],
        test: bool = False,
    ) -> None:
        self.experiment = experiment
        self.test = test
        self.folder = folder
        self.library = Library(experiment.library)
        self.library.check_writable()
        self.uri = resolve_uri(experiment.tracking, Path.cwd())
        self.students: dict[str, Stage] = {}
        self.variances: Mapping[str, Stage] = {}
        self.started = time.monotonic()
        self.earlier = float(folder.read_json("state.json").get("seconds", 0.0))
        there = known(self.uri, experiment.name)
        # A new database takes seconds, and so does the start of Ray: side by side.
        self.prepared = None if there else _aside(prepare, self.uri, experiment.name)
        delay = START if there else 0.0
        self.tracker = Tracker(self.uri, experiment.name, folder.path, dict(versions()), delay)
        self.bulletin = Bulletin(
            Standing(experiment),
            folder,
            self.library,
            lambda: (self.tracker.pending, self.tracker.trouble),
            self.earlier,
        )
        self.announce = Announcer((self.tracker, self.bulletin, *observers))
        self.study = Study(experiment, folder.path)

    def run(self, address: str | None, inline: bool, resumed: bool) -> Launched:
        """Search, and settle what was found.

        Raises:
            Lost: with what to type once the place is back.
        """
        try:
            return self._run(address, inline, resumed)
        except Lost as lost:
            place, said = lost.problem.path, lost.problem.message
            raise Lost(place, f"{said}; then stillhouse resume {self.folder.name}") from None
        finally:
            self.study.close()

    def _run(self, address: str | None, inline: bool, resumed: bool) -> Launched:
        ledger = Ledger(self.study, self.library, self.announce)
        state: SearchState = "interrupted"
        settled: list[Contender] = []
        self._note("running")
        self.announce(self._started(resumed))
        stopped = threading.Event()
        try:
            # Twice: Ray, when it starts, puts a handler of its own in place.
            with (
                _stoppable(stopped),
                self._workshop(address, inline) as workshop,
                self.bulletin.watching(workshop),
                _stoppable(stopped),
            ):
                if self.prepared is not None:
                    self.prepared.result()
                if workshop.search(ledger, self.experiment.trials):
                    settled = self._settle(workshop)
                    state = "finished"
        except BaseException as error:
            # A stop in the middle of Ray's start comes out of it as an error of Ray's.
            if not (stopped.is_set() or isinstance(error, KeyboardInterrupt)):
                self._note("failed")
                self.announce(SearchEnded("failed", self._hushed(error)))
                self.tracker.close(timeout=10.0)
                self.bulletin.close()
                raise
        if state == "interrupted":
            ledger.interrupted()
        return self._end(state, self._outcome(settled))

    def _hushed(self, error: BaseException) -> str:
        return hushed(str(error), self.uri, self.experiment.study)

    def _started(self, resumed: bool) -> SearchStarted:
        so_far = self._outcome([])
        self.bulletin.needs.add(so_far.stages)
        ended = Counter[str](t.state for t in so_far.trials if t.state != "running")
        first = next(iter(ranking(so_far)), None)
        best = (first.figures[so_far.goals[0].figure], first.number) if first else None
        told, trials = self.experiment.plain(), self.experiment.trials
        return SearchStarted(self.folder.name, told, resumed, ended, best, trials)

    @contextlib.contextmanager
    def _workshop(self, address: str | None, inline: bool) -> Iterator[Workshop]:
        shop: Workshop
        if inline:
            shop = Inline(self.experiment, self.library, self.announce)
        else:
            # Imported here: an inline run, a check or a plan need not wait for Ray.
            from search.tuning import OnRay

            shop = OnRay(
                self.experiment,
                self.library,
                self.announce,
                self.folder.path,
                address,
                stores={"tracking": self.uri, "study": self.experiment.study or ""},
            )
        try:
            yield shop
        finally:
            shop.close()

    def _settle(self, workshop: Workshop) -> list[Contender]:
        """Have the best configurations made over fresh seeds, then the baselines of the best one
        (of each group)."""
        if self.experiment.factorial:
            settled = cells(self.experiment)
        else:
            settled = contenders(self.experiment, ranking(self._outcome([])))
        students = [r.student for c in settled for r in c.recipes.values()]
        self.students = {student.key: student for student in students}
        workshop.make(students)
        if self.experiment.factorial:
            self.variances = variances(settled, self.library)
            workshop.make(list(self.variances.values()))
            return settled
        if not self.experiment.run.baselines:
            return settled
        best = {(r.role, r.group) for r in winners(self._outcome(settled)).values()}
        against: list[Contender] = []
        for place, each in enumerate(settled):
            if (each.role, each.group) in best:
                found = baselines(self.experiment, each, self.library)
                settled[place], others = held_apart(each, found)
                against += others
        beside = [r.student for c in against for r in c.recipes.values()]
        self.students |= {student.key: student for student in beside}
        workshop.make(beside)
        return settled + against

    def _outcome(self, settled: Sequence[Contender]) -> Outcome:
        """What is known so far."""
        trials = self.study.trials()
        records = self._records(trials, settled)
        asked = self.experiment.factorial
        varied = {role: records.get(stage.key) for role, stage in self.variances.items()}
        return Outcome(
            name=self.folder.name,
            goals=self.experiment.goals,
            limits=self.experiment.limits,
            trials=tuple(trials),
            repeats=tuple(r for c in settled if (r := c.repeated(self.library)).records),
            stages=records,
            labels={key: record.name for key, record in records.items()},
            made=frozenset(self.announce.made),
            reused=frozenset(self.announce.reused),
            importances=self.study.importances(),
            seconds=self.earlier + time.monotonic() - self.started,
            factorial=asked.plain() if asked else {},
            variances={role: r.figures["variance"] for role, r in varied.items() if r},
        )

    def _records(self, trials: Sequence[Trial], settled: Sequence[Contender]) -> dict[str, Record]:
        """The records of every stage of this search that is in the library, by key."""
        keys = {key for trial in trials for key in trial.keys.values()}
        recipes = [recipe for contender in settled for recipe in contender.recipes.values()]
        keys |= {stage.key for recipe in recipes for stage in recipe.student.lineage()}
        keys |= {key for trial in trials if trial.screen for key in trial.screen.keys}
        keys |= {stage.key for stage in self.variances.values()}
        return present(self.library, keys)

    def _end(self, state: SearchState, outcome: Outcome) -> Launched:
        self.bulletin.needs.note(outcome.stages)
        self.announce(SearchEnded(state))
        if state == "finished":
            if self.test:
                data = self.experiment.recipe().student.data
                tests = {r.name: tested(r.records, data, self._artifact) for r in outcome.repeats}
                outcome = replace(outcome, tests=tests)
            self._log_outcome(outcome)
        self._note(state)
        unsent = self.tracker.close(timeout=60.0 if state == "finished" else 15.0)
        self.bulletin.close()
        return Launched(self.folder, state, outcome, self.uri, unsent)

    def _log_outcome(self, outcome: Outcome) -> None:
        files = write_outcome(self.experiment, outcome, self.folder)
        best = winner(outcome)
        if best is None:
            self.tracker.log_outcome(outcome, files, {})
            return
        record = outcome.representative(best)[1]
        number = int(best.role.removeprefix("trial "))
        tests = outcome.tests.items()
        tested = {f"test_{n.replace(',', '')}": statistics.fmean(values) for n, values in tests}
        self.tracker.log_outcome(outcome, files, {**best.summary(), **tested}, number)
        data = self.experiment.recipe(self._values(number)).student.data
        examples = next(open_data(data).batches("validation", batch_size=4, device="cpu"))
        self.tracker.log_winner(
            rebuild(self._artifact(record.key)),
            examples.images,
            classes=record.facts["data"]["class_names"],
            register=self.experiment.run.register_as,
        )

    def _artifact(self, key: str) -> Artifact:
        """What a settled student is; made again here, if its tensors turn out to be damaged."""
        try:
            return self.library.open(key)
        except (Damaged, KeyError):
            for _ in make_all([self.students[key]], self.library):
                pass
            return self.library.open(key)

    def _values(self, number: int) -> Mapping[str, Any]:
        return next(trial.values for trial in self.study.trials() if trial.number == number)

    def _note(self, state: str) -> None:
        seconds = self.earlier + time.monotonic() - self.started
        self.folder.write_json("state.json", {"state": state, "seconds": seconds})


def _check_study(experiment: Experiment) -> None:
    """Have its database answer before anything is begun; say what a resume will not know."""
    if experiment.study:
        check_study(experiment.study)
    for field, uri in {"tracking": experiment.tracking, "study": experiment.study}.items():
        if uri and has_secret(uri):
            message = "the password in `%s:` is not kept with the run; for a resume, %s"
            log.warning(message, field, remedy_of(uri))


def _aside(work: Callable[..., Any], *args: Any) -> Future[Any]:
    """Do something in a thread of its own."""
    return ThreadPoolExecutor(1).submit(work, *args)


@contextlib.contextmanager
def _stoppable(stopped: threading.Event) -> Iterator[None]:
    """SIGTERM stops a search as Ctrl-C does: Tune listens to the one, clusters send the other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        stopped.set()
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
