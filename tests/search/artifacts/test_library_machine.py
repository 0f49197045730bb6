"""Publishers, readers, collectors and crashes, interleaved at every file operation.

Whatever happens between two operations of one of them, nobody reads a torn or a wrong artifact,
and what is not there can be made.
"""

import datetime
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import CorruptArtifact, Library, serialise_tensors
from stillhouse.spaces.config.base import fingerprint

NAMES = ("teacher", "student")
KEYS = {name: fingerprint({"name": name}) for name in NAMES}


class Crash(BaseException):
    """The machine of one actor goes down."""


def tensors(name, seed):
    return {"weights": torch.full((8,), float(len(name) * 10 + seed))}


def publish(library, name, seed):
    payload, data = serialise_tensors(tensors(name, seed))
    record = Record(
        key=KEYS[name],
        name=name,
        kind="train",
        identity={"name": name},
        payload=payload,
        figures={"seed": float(seed)},
        facts={},
        seconds=1.0,
        made_at="2026-01-01T00:00:00+00:00",
    )
    library.publish(record, data)


def right(artifact, name):
    """Whether the record and the tensors belong to one publication of that name."""
    wanted = tensors(name, int(artifact.record.figures["seed"]))
    return artifact.record.key == KEYS[name] and torch.equal(
        artifact.tensors["weights"], wanted["weights"]
    )


class Actor:
    """A process that uses the library, one file operation at a time."""

    def __init__(self, root, what, work):
        self.what, self.found, self.error = what, None, None
        self.done = self._crashing = False
        self._turn, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        library = Serial(root)
        library.files.filesystem = Gated(library.files.filesystem, self._gate)
        self._thread = threading.Thread(target=self._run, args=(work, library), daemon=True)
        self._thread.start()
        self._paused.acquire()

    def step(self):
        self._turn.release()
        self._paused.acquire()

    def crash(self):
        self._crashing = True
        self.step()
        self._thread.join()

    def finish(self):
        while not self.done:
            self.step()
        self._thread.join()

    def _gate(self):
        self._paused.release()
        self._turn.acquire()
        if self._crashing:
            raise Crash

    def _run(self, work, library):
        try:
            self.found = work(library)
        except Crash:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self._paused.release()


class Serial(Library):
    """Without threads."""

    def records(self):
        return [record for record in map(self.record, list(self.keys())) if record]


class Gated:
    """A file system that calls ``gate`` before each operation."""

    def __init__(self, inner, gate):
        self._inner, self._gate = inner, gate

    def __getattr__(self, name):
        def asked(*args, **kwargs):
            self._gate()
            return getattr(self._inner, name)(*args, **kwargs)

        return asked

    def open_output_stream(self, path):
        self._gate()
        return GatedStream(self._inner.open_output_stream(path), self._gate)


class GatedStream:
    """A file that exists, empty, before its content is written."""

    def __init__(self, stream, gate):
        self._stream, self._gate = stream, gate

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()

    def write(self, data):
        self._gate()
        self._stream.write(data[: len(data) // 2])
        self._gate()
        self._stream.write(data[len(data) // 2 :])


names, seeds = st.sampled_from(NAMES), st.integers(0, 1)


class LibraryMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory(prefix="stillhouse-machine-")
        self.root = self._temporary.name
        self.actors = []
        self.disturbed = set()

    def begin(self, what, name, work):
        self.actors.append((Actor(self.root, what, work), name))

    @property
    def busy(self):
        return [(actor, name) for actor, name in self.actors if not actor.done]

    @property
    def at_work(self):
        return {actor.what for actor, _ in self.busy}

    @initialize()
    def there_already(self):
        for name in NAMES:
            publish(Serial(self.root), name, 0)

    @precondition(lambda self: len(self.busy) < 5)
    @rule(name=names, seed=seeds)
    def publisher(self, name, seed):
        self.begin("publish", name, lambda library: publish(library, name, seed))

    @precondition(lambda self: len(self.busy) < 5)
    @rule(name=names)
    def reader(self, name):
        def read(library):
            try:
                return library.open_artifact(KEYS[name])
            except (KeyError, CorruptArtifact) as error:
                return error

        self.begin("read", name, read)

    @precondition(lambda self: len(self.busy) < 5)
    @rule(name=names)
    def remover(self, name):
        self.disturbed.add(name)
        self.begin("remove", name, lambda library: library.remove_artifact(KEYS[name]))

    @precondition(lambda self: len(self.busy) < 5 and "publish" not in self.at_work)
    @rule()
    def collector(self):
        """Deletes only files from before its start: a crash has left these."""
        before = datetime.datetime.now(datetime.UTC)

        def collect(library):
            for path in library.orphaned_files(before):
                library.remove_file(path, before)

        self.begin("collect", None, collect)

    @precondition(lambda self: self.busy)
    @rule(which=st.integers(0, 4), steps=st.sampled_from((1, 2, 3, 5, 100)))
    def steps(self, which, steps):
        actor, _ = self.busy[which % len(self.busy)]
        for _ in range(steps):
            if not actor.done:
                actor.step()

    @precondition(lambda self: self.busy)
    @rule(which=st.integers(0, 4))
    def crash(self, which):
        self.busy[which % len(self.busy)][0].crash()

    @rule(name=names, which=st.integers(0, 3), bit=st.integers(0, 10_000))
    def bit_flips(self, name, which, bit):
        files = sorted(Path(self.root, f"artifacts/{KEYS[name][:2]}/{KEYS[name]}").glob("[!.]*"))
        if files and (data := bytearray(files[which % len(files)].read_bytes())):
            self.disturbed.add(name)
            data[bit // 8 % len(data)] ^= 1 << bit % 8
            files[which % len(files)].write_bytes(data)

    @invariant()
    def what_was_read_is_right(self):
        for actor, name in [pair for pair in self.actors if pair[0].done]:
            assert actor.error is None, (actor.what, actor.error)
            if actor.what == "read" and actor.found is not None:
                if isinstance(actor.found, CorruptArtifact):
                    assert name in self.disturbed
                elif not isinstance(actor.found, KeyError):
                    assert right(actor.found, name)
        self.actors = self.busy

    def teardown(self):
        try:
            for actor, _ in self.busy:
                actor.finish()
            self.what_was_read_is_right()
            for name in NAMES:
                self.made_once_more(name)
        finally:
            self._temporary.cleanup()

    def made_once_more(self, name):
        """After all actors, the artifact can be read, or published and read."""
        library = Serial(self.root)
        try:
            found = library.open_artifact(KEYS[name])
        except (KeyError, CorruptArtifact):
            publish(library, name, 1)
            found = Serial(self.root).open_artifact(KEYS[name])
        assert right(found, name)


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


class TestShort(LibraryMachine.TestCase):
    settings = settings(
        max_examples=25,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=QUIET,
        derandomize=True,
        database=None,
    )


@pytest.mark.slow
class TestLong(LibraryMachine.TestCase):
    settings = settings(
        max_examples=1500,
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=QUIET,
        database=None,
    )
