"""Stores that MLflow cannot use, and where an id is looked up: one line with the remedy."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import pytest
import yaml
from mlflow import MlflowClient

from stillhouse.search.cli.app import main
from stillhouse.search.driver.reuse import repeat_winner
from stillhouse.search.monitoring.mlflow import check_reachable, is_prepared, prepare_store
from stillhouse.search.monitoring.mlflow.locations import resolve_uri
from stillhouse.search.monitoring.mlflow.schema import known_revisions, schema_mismatch
from stillhouse.search.runs.files import find_run_file
from stillhouse.spaces.config.problems import ConfigError


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    assert prepare_store(resolve_uri(None, folder), "tiny") == ""
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path)
    return resolve_uri(None, tmp_path)


def change(tmp_path, *statements):
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


NEWER = "UPDATE alembic_version SET version_num = 'ffffffffffff'"
OLDER = "UPDATE alembic_version SET version_num = '451aebb31d03'"


def told_of(uri):
    """What a launch and what the doctor say of a store: the same line."""
    lines = set()
    for check in (check_reachable, lambda uri: prepare_store(uri, "other")):
        with pytest.raises(ConfigError) as error:
            check(uri)
        lines.add(str(error.value))
    (line,) = lines
    assert "\n" not in line
    return line


@pytest.mark.parametrize("missing", [(), ("DROP TABLE datasets",)])
def test_a_database_of_a_newer_mlflow(uri, tmp_path, missing):
    assert is_prepared(uri, "tiny")
    change(tmp_path, NEWER, *missing)
    before = (tmp_path / "mlflow.db").read_bytes()
    line = told_of(uri)
    assert "a newer MLflow wrote it" in line
    assert "ffffffffffff" in line
    assert version("mlflow") in line
    assert "install that MLflow" in line
    assert "db upgrade" not in line
    assert not is_prepared(uri, "tiny")
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_database_of_an_older_mlflow(uri, tmp_path):
    change(tmp_path, OLDER)
    assert f"then run `mlflow db upgrade {uri}`" in told_of(uri)
    assert not is_prepared(uri, "tiny")


def test_the_revisions_are_those_of_the_installed_mlflow(empty_database):
    with contextlib.closing(sqlite3.connect(empty_database)) as database:
        ((written,),) = database.execute("SELECT version_num FROM alembic_version")
    everything, newest = known_revisions()
    assert newest == written
    assert "451aebb31d03" in everything
    assert schema_mismatch(written, "sqlite:///x") == ""


def test_a_database_that_cannot_be_written(uri, tmp_path):
    with (tmp_path / "mlflow.db").open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")  # SQLite: a format that only later versions write
    assert "readonly database; allow writing to the file and its folder" in told_of(uri)
    assert not is_prepared(uri, "tiny")


def test_a_database_that_somebody_is_writing_is_no_trouble(uri, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert is_prepared(uri, "tiny")


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    line = told_of(resolve_uri(None, tmp_path))
    assert "file is not a database; move the file away" in line


HTML = "<!doctype html>\n<html><body>welcome</body></html>"
ANSWERS = [
    (401, "You are not authenticated", "asks who you are (401): You are not authenticated"),
    (401, HTML, "MLFLOW_TRACKING_USERNAME"),
    (403, "Invalid Host header", "forbids it (403): Invalid Host header; ask whoever runs it"),
    (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "forbids it (403)"),
    (404, HTML, "no MLflow answers there; check the address in `tracking:` (404)"),
    (404, '{"detail": "Not Found"}', "no MLflow answers there; check the address"),
    (500, HTML, "the server has trouble (error 500); its log says which"),
    (503, "", "the server has trouble (error 503)"),
    (200, HTML, "no MLflow answers there; check the address"),
    (302, "", "no MLflow answers there; check the address in `tracking:` (302)"),
]


@pytest.fixture
def answering():
    """A server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        answer = (200, "")

        def do_GET(self):
            status, body = Handler.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("status", "body", "wanted"), ANSWERS)
def test_a_server_that_is_none_or_does_not_want(answering, status, body, wanted):
    handler, uri = answering
    handler.answer = status, body
    with pytest.raises(ConfigError) as error:
        check_reachable(uri)
    assert wanted in str(error.value)
    assert "\n" not in str(error.value)
    assert wanted in prepare_store(uri, "tiny")  # a search begins all the same, and sends later


BEST = {
    "name": "old-best",
    "data": {"source": "digits"},
    "stages": {"student": {"network": "cnn2", "objective": {"cross_entropy": {}}}},
}


class TestReuse:
    @pytest.fixture
    def run_id(self, uri, tmp_path, monkeypatch):
        """The id of a search's run in a store that is not the working folder's."""
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("tiny").experiment_id
        run = client.create_run(experiment).info.run_id
        (tmp_path / "best.yaml").write_text(yaml.safe_dump(BEST))
        where = (tmp_path / "elsewhere").as_uri()
        client.create_experiment("stored", where)
        run = client.create_run(client.get_experiment_by_name("stored").experiment_id).info.run_id
        client.log_artifact(run, str(tmp_path / "best.yaml"))
        cwd = tmp_path / "cwd"
        cwd.mkdir()
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return run

    def test_a_store_that_is_named(self, uri, run_id):
        assert repeat_winner(run_id, {"tracking": uri}, 2, None).name == "old-best-again"
        found = repeat_winner(run_id, {"tracking": uri}, 2, None)
        assert found.tracking == uri

    def test_mlflows_own_variable(self, uri, run_id, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert repeat_winner(run_id, {}, 2, None).tracking == uri

    def test_the_store_of_the_runs_here(self, uri, run_id, tmp_path):
        folder = tmp_path / "runs" / "other-1"
        folder.mkdir(parents=True)
        told = {**BEST, "name": "other", "tracking": uri}
        (folder / "experiment.yaml").write_text(yaml.safe_dump(told))
        assert repeat_winner(run_id, {}, 2, None).tracking == uri

    def test_a_name_without_a_run_says_where_it_was_looked_for(
        self, uri, run_id, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ConfigError) as error:
            find_run_file("0" * 32, "best.yaml")
        (line,) = str(error.value).splitlines()
        assert str(tmp_path / "runs") in line
        assert f"{uri} (no such run)" in line
        assert f"{tmp_path}/cwd/mlflow.db (there is no database)" in line
        assert "--tracking URI" in line
        assert list((tmp_path / "cwd").iterdir()) == []
        assert run_id != "0" * 32

    def test_only_the_store_that_is_named_is_asked(self, uri, run_id, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ConfigError, match=r"no such run|no database") as error:
            find_run_file(run_id, "best.yaml", f"sqlite:///{tmp_path}/none.db")
        assert f"{uri} (" not in str(error.value)

    def test_both_options_reach_it(self, uri, run_id, monkeypatch, capsys):
        asked = []

        def launch(experiment, **_):
            asked.append(experiment.tracking)
            raise KeyboardInterrupt

        monkeypatch.setattr("stillhouse.search.cli.runs.launch_search", launch)
        for option in (("--tracking", uri), ("--set", f"tracking={uri}")):
            monkeypatch.setattr(sys, "argv", ["stillhouse", "reuse", run_id, *option])
            with pytest.raises(SystemExit):
                main()
        assert asked == [uri, uri]
        assert "error" not in capsys.readouterr().err


@pytest.mark.usefixtures("uri")
def test_a_search_on_a_newer_database_ends_with_one_line(tmp_path, monkeypatch):
    change(tmp_path, NEWER)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**BEST, "name": "tiny"}))
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "stillhouse.search.cli", "launch", "tiny.yaml", "--inline"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1, done.stderr
    assert "a newer MLflow wrote it" in lines[0]
    assert "Traceback" not in done.stderr + done.stdout
