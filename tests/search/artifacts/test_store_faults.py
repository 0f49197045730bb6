"""An object store that throttles, fails, hangs and cuts connections, or is down."""

import contextlib
import http.client
import http.server
import random
import threading
import time
from urllib.parse import urlsplit

import pytest
import torch

from stillhouse import launch, resume
from stillhouse.search.artifacts import places
from stillhouse.search.artifacts.need import RunRef, RunReferences
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library, serialise_tensors
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.base import fingerprint

pytestmark = pytest.mark.slow
FAULTS = ("500", "503", "hang", "dropped", "answer lost", "cut")
SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
BROKEN = b"<Error><Code>InternalError</Code><Message>We encountered one.</Message></Error>"


class Proxy(http.server.ThreadingHTTPServer):
    """A proxy of a store; a seeded share of the requests fails, with each kind of fault in turn.

    With ``share`` 1 the store is down: no request is answered.
    """

    daemon_threads = True

    def __init__(self, store, seed, share=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = urlsplit(store)
        self.share, self.kinds = share, FAULTS
        self.with_metric = dict.fromkeys(FAULTS, 0)
        self._chance, self._lock = random.Random(seed), threading.Lock()
        self.hang = 3.0

    def fault(self):
        with self._lock:
            if self._chance.random() >= self.share:
                return ""
            kind = min(self.kinds, key=lambda kind: self.with_metric[kind])
            self.with_metric[kind] += 1
            return kind

    def handle_error(self, request, client_address):
        """A client that closes the connection is no error."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self):
        body = self._body()
        fault = self.server.fault()
        if fault == "hang":
            time.sleep(self.server.hang)
        if fault in ("hang", "dropped"):
            return self._hang_up()
        if fault in ("500", "503"):
            return self._answer(int(fault), {}, BROKEN if fault == "500" else SLOW_DOWN)
        store = http.client.HTTPConnection(self.server.store.netloc, timeout=60)
        with contextlib.closing(store):
            headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
            store.request(self.command, self.path, body, headers)
            with store.getresponse() as answer:
                told = answer.read()
        if fault == "answer lost":  # done, and nobody knows
            return self._hang_up()
        return self._answer(answer.status, dict(answer.getheaders()), told, fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status, headers, body, cut=False):
        own = ("content-length", "transfer-encoding", "connection", "date", "server")
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in own:
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up()

    def _hang_up(self):
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def behind(bucket, s3_server, monkeypatch):
    """A library's address behind a proxy, and the proxy; request time-outs are short."""
    monkeypatch.setattr(places, "REQUEST_TIMEOUT_S", 1.5)
    proxy = Proxy(s3_server, seed=7)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
    thread.start()
    address = f"http://127.0.0.1:{proxy.server_port}"
    yield bucket.replace(s3_server, address), proxy
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def stage(name, size=50_000):
    tensors = {"weights": torch.full((size,), float(len(name)))}
    payload, data = serialise_tensors(tensors)
    identity = {"name": name}
    record = Record(
        key=fingerprint(identity),
        name=name,
        kind="train",
        identity=identity,
        payload=payload,
        figures={"val_accuracy": 0.5},
        facts={},
        seconds=1.0,
        made_at="2026-01-01T00:00:00+00:00",
    )
    return record, data, tensors


def test_the_library_over_a_store_in_trouble(behind, bucket):
    """Publish, read, list, save and load checkpoints, collect: all operations succeed."""
    uri, proxy = behind
    library = Library(uri)
    proxy.share = 0.25
    made = [stage("a" * length) for length in range(1, 9)]
    for record, data, tensors in made:
        library.save_scratch(record.key, tensors)
        saved = Library(uri).load_scratch(record.key)
        assert torch.equal(saved["weights"], tensors["weights"])
        library.publish(record, data)
        assert library.load_scratch(record.key) is None
    for record, _, tensors in made:
        artifact = Library(uri).open_artifact(record.key)
        assert artifact.record == record
        assert torch.equal(artifact.tensors["weights"], tensors["weights"])
    reader = Library(uri)
    assert {record.key for record in reader.records()} == {record.key for record, _, _ in made}
    need = RunReferences(RunRef("tiny-1", "tiny-1"), frozenset({made[0][0].key}))
    library.write_references(need)
    assert reader.all_references() == {"tiny-1": need}
    for record, _, _ in made[1:]:
        library.remove_artifact(record.key)
    proxy.share = 0.0
    straight = Library(bucket)
    assert list(straight.keys()) == [made[0][0].key]
    files = {info.path for info in straight.files.list_files("")}
    assert len(files) == 3  # payload, record, what the search needs: nothing is torn or left over
    assert all(count >= 2 for count in proxy.with_metric.values()), proxy.with_metric


def accuracies(launched):
    return [trial.figures["val_accuracy"] for trial in launched.outcome.trials]


def test_a_search_over_a_store_in_trouble_finds_what_it_finds_without(
    behind, load, tmp_path, monkeypatch
):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    uri, proxy = behind
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    plain = launch(load({"run.trials": 2}, tracking=tracking), inline=True)
    proxy.share = 0.15
    troubled = launch(load({"run.trials": 2}, tracking=tracking, library=uri), inline=True)
    assert troubled.state == "finished"
    assert accuracies(troubled) == accuracies(plain)
    assert sum(proxy.with_metric.values()) > 5


def test_a_store_that_stays_away_ends_the_search_in_one_line(behind, load, tmp_path, monkeypatch):
    """In bounded time; after that, a resume goes on with the open trial."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(places, "MAX_ATTEMPTS", 3)
    uri, proxy = behind
    experiment = load({"run.trials": 3}, tracking=f"sqlite:///{tmp_path}/mlflow.db", library=uri)

    def go_away(event):
        if type(event).__name__ == "TrialReported" and event.number == 1:
            proxy.share, proxy.kinds = 1.0, ("dropped",)

    monkeypatch.setattr("stillhouse.search.artifacts.files.open_filesystem", _three_attempts)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        launch(experiment, inline=True, observers=[go_away])
    assert time.monotonic() - started < 120
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"library: the library {uri.partition('?')[0]} cannot be used: ")
    assert said.endswith("; then stillhouse resume tiny-1")
    assert RunFolder.find("tiny-1").read_json("state.json")["state"] == "failed"

    proxy.share = 0.0
    launched = resume("tiny-1", inline=True)
    assert [(t.number, t.state) for t in launched.outcome.trials] == [
        (number, "finished") for number in range(3)
    ]


_open_place = places.open_filesystem


def _three_attempts(uri, attempts=3):
    return _open_place(uri, attempts)
