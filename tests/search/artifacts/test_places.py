"""The addresses of a library, and the messages when it cannot be used."""

import http.server
import socket
import threading
import time

import pytest

from stillhouse.search.artifacts.places import absolute_address, open_filesystem
from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import for_display
from stillhouse.spaces.config.problems import ConfigError

REGIONAL = {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "https://store.example:9000/"}


@pytest.fixture(autouse=True)
def _own_environment(s3_keys):
    pass


def refused(uri):
    with pytest.raises(ConfigError) as caught:
        Library(uri).check_writable()
    (problem,) = caught.value.problems
    assert "\n" not in problem.message
    return problem.message


def test_an_address_means_the_same_on_every_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert absolute_address("here") == str(tmp_path / "here")
    assert absolute_address("gs://bucket/path") == "gs://bucket/path"
    for name, value in REGIONAL.items():
        monkeypatch.setenv(name, value)
    whole = "s3://b/p/q?endpoint_override=store.example:9000&scheme=https&region=eu-west-1"
    assert absolute_address("s3://b/p/q/") == whole
    for name in REGIONAL:
        monkeypatch.delenv(name)
    assert absolute_address(whole) == whole


def test_the_address_goes_before_the_environment(monkeypatch):
    for name, value in REGIONAL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://other:1")
    assert absolute_address("s3://b").endswith(
        "?endpoint_override=other:1&scheme=http&region=eu-west-1"
    )
    told = "s3://b?endpoint_override=http://mine:2&region=us-east-2"
    assert absolute_address(told).endswith("?endpoint_override=mine:2&scheme=http&region=us-east-2")


def test_a_store_that_is_not_amazons_needs_no_region():
    assert absolute_address("s3://b?endpoint_override=mine").endswith(
        "scheme=https&region=us-east-1"
    )


def test_region_and_endpoint_reach_the_file_system():
    uri = absolute_address("s3://b/p?endpoint_override=http://127.0.0.1:9&region=eu-central-1")
    system, root = open_filesystem(uri)
    assert (system.region, root) == ("eu-central-1", "b/p")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3:///path", "names no bucket: s3://BUCKET/PATH"),
        ("s3://b/p?endpoint=x", "has the setting 'endpoint'; allowed are endpoint_override, reg"),
        ("s3://me:secret@b/p", "holds keys: put them into AWS_ACCESS_KEY_ID"),
    ],
)
def test_an_address_that_is_none_is_refused(uri, said):
    message = refused(uri)
    assert said in message
    assert "secret" not in message


def test_people_see_neither_settings_nor_keys():
    assert for_display("s3://b/p?endpoint_override=x") == "s3://b/p"
    assert for_display("s3://me:secret@b/p") == "s3://b/p"
    assert for_display("/a folder/with#odd?names") == "/a folder/with#odd?names"


def test_a_bucket_that_is_not_there(s3_server):
    said = refused(f"s3://nowhere-to-be-found/p?endpoint_override={s3_server}")
    assert "the library s3://nowhere-to-be-found/p cannot be used" in said
    assert said.endswith("make the bucket, or name another in `library:`")


def test_a_server_that_is_not_there_is_noticed_in_seconds():
    started = time.monotonic()
    said = refused("s3://bucket/p?endpoint_override=http://127.0.0.1:9")
    assert time.monotonic() - started < 10
    assert "s3://bucket/p cannot be used" in said
    assert "does the store answer? AWS_ENDPOINT_URL_S3" in said


def test_a_server_that_never_answers_is_noticed_in_seconds():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        port = silent.getsockname()[1]
        said = refused(f"s3://bucket/p?endpoint_override=http://127.0.0.1:{port}")
        assert time.monotonic() - started < 20
    assert "does the store answer?" in said


class Guarded(http.server.BaseHTTPRequestHandler):
    """Answers as Amazon's store does to requests without a signature, or with unknown keys."""

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        unsigned = "Authorization" not in self.headers
        code = "AccessDenied" if unsigned else "InvalidAccessKeyId"
        body = f"<Error><Code>{code}</Code><Message>Access Denied</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def guarded():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"s3://bucket/p?endpoint_override=http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("keys", ["none", "unknown"])
def test_without_the_right_keys(guarded, monkeypatch, keys):
    if keys == "none":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    said = refused(guarded)
    assert "the library s3://bucket/p cannot be used" in said
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role" in said
    assert "testing" not in said
