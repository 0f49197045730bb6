"""The driver of one launch: it has trials run, settles what was found, and ends the search."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from stillhouse.methods.core.data.base.splits import Split
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Damaged, Library
from stillhouse.search.assembly.network import rebuild
from stillhouse.search.cluster.head import leave
from stillhouse.search.core.errors import Lost
from stillhouse.search.core.provenance import versions
from stillhouse.search.driver.cautions import cautions
from stillhouse.search.driver.ending import StateFile, Steps, no_result, told_reason
from stillhouse.search.driver.launched import Launch, Launched
from stillhouse.search.driver.stopping import Stop
from stillhouse.search.evaluation.baselines import with_baselines
from stillhouse.search.evaluation.factorial import cells
from stillhouse.search.evaluation.finalists import Contender, contenders
from stillhouse.search.evaluation.seed_variance import variances
from stillhouse.search.evaluation.test_split import tested
from stillhouse.search.execution.builder import make_all
from stillhouse.search.experiment.checks.ending import why_untested
from stillhouse.search.monitoring.dispatcher import Announcer
from stillhouse.search.monitoring.events import SearchEnded, SearchStarted, SearchState
from stillhouse.search.monitoring.mlflow import Tracker, known, prepare, resolve_uri
from stillhouse.search.monitoring.mlflow.model import check_name
from stillhouse.search.monitoring.publisher import Bulletin, Watched
from stillhouse.search.monitoring.status import Standing
from stillhouse.search.monitoring.teachers import TeacherWatch
from stillhouse.search.results.outcome import Outcome, Trial, winner, winners
from stillhouse.search.results.statistics import ranking
from stillhouse.search.runs.result import present
from stillhouse.search.runs.results import write_pages, write_settled
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.local_backend import Inline
from stillhouse.search.tuning.recorder import Ledger
from stillhouse.search.tuning.study import Study

START = 8.0
"""Seconds of a start in which MLflow, where it has nothing to prepare, is left alone."""


class Workshop(Watched, Protocol):
    """Where stages are made and trials run: this process, or a Ray cluster."""

    def make(self, stages: Sequence[Stage]) -> dict[str, str]: ...

    def search(self, ledger: Ledger, trials: int) -> bool: ...

    def close(self) -> None: ...


class Driver:
    """One launch: holds the parts while they work together."""

    def __init__(self, asked: Launch, state: StateFile, stop: Stop) -> None:
        experiment, folder = asked.experiment, asked.folder
        self.experiment = experiment
        self.test = asked.test
        self.resumed = asked.resumed
        self.folder = folder
        self.state = state
        self.stop = stop
        self.library = Library(experiment.library)
        self.library.check_writable()
        self.uri = resolve_uri(experiment.tracking, Path.cwd())
        self.steps = Steps(folder, self.uri, experiment.study)
        self.students: dict[str, Stage] = {}
        self.variances: Mapping[str, Stage] = {}
        self.failed: dict[str, str] = {}
        there = known(self.uri, experiment.name)
        # A new database takes seconds, and so does the start of Ray: side by side.
        self.prepared = None if there else _aside(prepare, self.uri, experiment.name)
        delay = START if there else 0.0
        self.tracker = Tracker(self.uri, experiment.name, folder.path, dict(versions()), delay)
        self.bulletin = Bulletin(
            Standing(experiment),
            folder,
            self.library,
            self.tracker.state,
            state.earlier,
        )
        self.announce = Announcer((self.tracker, self.bulletin, *asked.observers), TeacherWatch())
        try:
            self.study = Study(experiment, folder.path)
        except BaseException:
            self.tracker.close(timeout=5.0)  # so that another may have the run
            raise

    def run(self, address: str | None, inline: bool) -> Launched:
        """Search, settle what was found, and end."""
        try:
            return self._run(address, inline)
        finally:
            self.study.close()

    def _run(self, address: str | None, inline: bool) -> Launched:
        ledger = Ledger(self.study, self.library, self.announce)
        self.state.note("running")
        try:
            self.announce(self._started())
            for warned in cautions(self.experiment):
                self.announce(warned)
            settled = self._searched(address, inline, ledger)
            if settled is not None:
                with self.stop.by_signal():
                    return self._ended(self._outcome(settled))
        except BaseException as error:
            if not self.stop.caused(error):
                self._fail(error)
                raise
        self.state.note("interrupted")
        with self.stop.by_signal():
            return self._interrupted(ledger)

    def _searched(
        self, address: str | None, inline: bool, ledger: Ledger
    ) -> list[Contender] | None:
        """What was settled after the search; none where it was stopped."""
        with (
            self._workshop(address, inline) as workshop,
            self.bulletin.watching(workshop),
            self.stop.by_signal(),  # again: Ray, when it starts, puts its own handler in place
        ):
            if self.prepared is not None:
                self.prepared.result()
            if workshop.search(ledger, self.experiment.trials):
                return self._settle(workshop)
        return None

    def _started(self) -> SearchStarted:
        so_far = self._outcome([])
        self.bulletin.needs.add(so_far.stages)
        ended = Counter[str](t.state for t in so_far.trials if t.state != "running")
        first = next(iter(ranking(so_far)), None)
        best = (first.figures[so_far.goals[0].figure], first.number) if first else None
        told, trials = self.experiment.plain(), self.experiment.trials
        return SearchStarted(self.folder.name, told, self.resumed, ended, best, trials)

    @contextlib.contextmanager
    def _workshop(self, address: str | None, inline: bool) -> Iterator[Workshop]:
        shop: Workshop
        if inline:
            shop = Inline(self.experiment, self.library, self.announce)
        else:
            # Imported here: an inline run, a check or a plan need not wait for Ray.
            from stillhouse.search.tuning.ray_backend import OnRay

            shop = OnRay(
                self.experiment,
                self.library,
                self.announce,
                self.folder.path,
                address,
                stores={"tracking": self.uri, "study": self.experiment.study or ""},
                gone=self._leave,
            )
        try:
            yield shop
        finally:
            shop.close()

    def _leave(self, said: str) -> None:
        """The cluster is lost, and Ray will end this process in some seconds: leave before it."""
        lost = Lost("--address", f"{said}; then stillhouse resume {self.folder.name} --address ...")
        told = SearchEnded("failed", str(lost))
        noted = (lambda: self.state.note("failed", str(lost)), lambda: self.announce(told))
        leave(lost, [*noted, lambda: self.tracker.close(timeout=5.0), self.bulletin.write])

    def _settle(self, workshop: Workshop) -> list[Contender]:
        """Have the best configurations made over fresh seeds, then the baselines of the best one
        (of each group)."""
        if self.experiment.factorial:
            settled = cells(self.experiment)
        else:
            settled = contenders(self.experiment, ranking(self._outcome([])))
        students = [r.student for c in settled for r in c.recipes.values()]
        self.students = {student.key: student for student in students}
        self.failed = workshop.make(students)
        if self.experiment.factorial:
            self.variances = variances(settled, self.library)
            workshop.make(list(self.variances.values()))
            return settled
        if not self.experiment.run.baselines:
            return settled
        best = winners(self._outcome(settled)).values()
        settled = with_baselines(self.experiment, settled, best, self.library)
        students = [r.student for c in settled for r in c.recipes.values()]
        beside = {s.key: s for s in students if s.key not in self.students}
        self.students |= beside
        workshop.make(list(beside.values()))
        return settled

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
            seconds=self.state.seconds,
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

    # The end

    def _ended(self, outcome: Outcome) -> Launched:
        """Write what a whole search came to, and tell of it; one failure stops no other step."""
        steps, files = self.steps, list[Path]()
        with steps.trying("writing the outcome"):
            files += write_settled(self.experiment, outcome, self.folder)
        with steps.trying("noting what the library is to keep"):
            self.bulletin.needs.note(outcome.stages)
        notes: list[str] = []
        if self.test:
            with steps.trying("looking at the test split"):
                outcome = self._tested(outcome, notes)
                write_settled(self.experiment, outcome, self.folder)
        with steps.trying("drawing the report"):
            files += write_pages(self.experiment, outcome, self.folder)
        with steps.trying("telling MLflow the outcome"):
            self._log_outcome(outcome, files)
        with steps.trying("saving the winner's model"):
            self._log_winner(outcome)
        reason = "; ".join(filter(None, (no_result(outcome, self.failed), self._troubles())))
        return self._closed("failed" if reason else "finished", outcome, reason, tuple(notes))

    def _troubles(self) -> str:
        """What failed at the end, and what ends the search rightly."""
        told = self.steps.reason
        return (
            f"{told}; mend that, and stillhouse resume {self.folder.name} ends it" if told else ""
        )

    def _interrupted(self, ledger: Ledger) -> Launched:
        with self.steps.trying("noting what was running"):
            ledger.interrupted()
        outcome = self._outcome([])
        with self.steps.trying("noting what the library is to keep"):
            self.bulletin.needs.note(outcome.stages)
        return self._closed("interrupted", outcome)

    def _closed(
        self, state: SearchState, outcome: Outcome, reason: str = "", notes: tuple[str, ...] = ()
    ) -> Launched:
        """Tell everybody the state, and send what is left to send."""
        with self.steps.trying("telling how the search ended"):
            self.announce(SearchEnded(state, reason))
        self.state.note(state, reason)
        unsent = self._sent(60.0 if state == "finished" else 15.0)
        self.bulletin.close()
        return Launched(self.folder, state, outcome, self.uri, unsent, reason, notes)

    def _sent(self, timeout: float) -> int:
        """Send what is left; Ctrl-C ends the waiting alone. Returns how much is still unsent."""
        try:
            return self.tracker.close(timeout)
        except KeyboardInterrupt:
            return self.tracker.pending

    def _fail(self, error: BaseException) -> None:
        """The search itself failed: have everybody know before the error goes on."""
        reason = told_reason(error, self.folder, self.uri, self.experiment.study)
        self.state.note("failed", reason)
        with self.steps.trying("telling how the search ended"):
            self.announce(SearchEnded("failed", reason))
        self.tracker.close(timeout=10.0)
        self.bulletin.close()

    def _tested(self, outcome: Outcome, notes: list[str]) -> Outcome:
        """The outcome with figures of the test split, or a note why there are none."""
        data = self.experiment.recipe().student.data
        if why := why_untested(data):
            notes.append(f"no test figures: {why}")
            return outcome
        tests = {r.name: tested(r.records, data, self._artifact) for r in outcome.repeats}
        return replace(outcome, tests=tests)

    def _log_outcome(self, outcome: Outcome, files: Sequence[Path]) -> None:
        best = winner(outcome)
        if best is None:
            self.tracker.log_outcome(outcome, files, {})
            return
        number = int(best.role.removeprefix("trial "))
        tests = outcome.tests.items()
        tested = {f"test_{n.replace(',', '')}": statistics.fmean(values) for n, values in tests}
        self.tracker.log_outcome(outcome, files, {**best.summary(), **tested}, number)

    def _log_winner(self, outcome: Outcome) -> None:
        best = winner(outcome)
        if best is None:
            return
        record = outcome.representative(best)[1]
        data = self.experiment.recipe(outcome.values(best)).student.data
        self.tracker.log_winner(
            rebuild(self._artifact(record.key)),
            examples(data),
            classes=record.facts["data"]["class_names"],
            register=self._registered(),
        )

    def _registered(self) -> str | None:
        """The name under which the winner is registered, if it is one."""
        name = self.experiment.run.register_as
        if name is not None:
            with self.steps.trying("registering the winner"):
                check_name(name)
                return name
        return None

    def _artifact(self, key: str) -> Artifact:
        """What a settled student is; made again here, if its tensors turn out to be damaged."""
        try:
            return self.library.open(key)
        except (Damaged, KeyError):
            for _ in make_all([self.students[key]], self.library):
                pass
            return self.library.open(key)


def _aside(work: Callable[..., Any], *args: Any) -> Future[Any]:
    """Do something in a thread of its own."""
    return ThreadPoolExecutor(1).submit(work, *args)


def examples(data: DataConfig) -> Tensor:
    """Two images or more for the model's example, of the validation split if there is one."""
    known = open_data(data)
    split: Split = "validation" if known.facts.sizes["validation"] else "train"
    images = next(known.batches(split, batch_size=4, device="cpu")).images
    # An export takes a single example for a fixed batch size.
    return images if len(images) > 1 else images.repeat(2, 1, 1, 1)
