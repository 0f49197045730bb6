"""Where MLflow is, and what waits on disk until it has been sent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.search.monitoring.mlflow.locations import (
    artifact_folder,
    resolve_uri,
    server_environment,
    ui_command,
)
from stillhouse.search.monitoring.mlflow.operations import log, valid_key
from stillhouse.search.monitoring.mlflow.outbox import Busy, Outbox, count_pending
from stillhouse.search.monitoring.mlflow.run_ids import RunIdMap
from stillhouse.spaces.config.problems import ConfigError


def op(number: int) -> dict:
    return {"do": "log", "run": "search", "number": number}


def sent(spool: Outbox, most: int) -> list[int]:
    operations, end = spool.read(most)
    spool.mark_sent(len(operations), end)
    return [operation["number"] for operation in operations]


class TestPlace:
    def test_default_is_a_database_in_the_base(self, tmp_path):
        assert resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"

    def test_relative_sqlite_lies_under_the_base_whatever_the_cwd(self, tmp_path, monkeypatch):
        monkeypatch.chdir("/")
        assert resolve_uri("sqlite:///runs/a.db", tmp_path) == f"sqlite:///{tmp_path}/runs/a.db"
        assert resolve_uri("sqlite:////data/a.db", tmp_path) == "sqlite:////data/a.db"

    def test_relative_base_becomes_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert resolve_uri(None, Path("x")) == f"sqlite:///{tmp_path}/x/mlflow.db"

    @pytest.mark.parametrize(
        "uri",
        [
            "http://mlflow:5000",
            "https://a.b/c",
            "postgresql+psycopg://u:p@h/d",
            "mysql://h/d",
            "databricks",
            "databricks://profile",
        ],
    )
    def test_servers_and_databases_pass(self, uri, tmp_path):
        assert resolve_uri(uri, tmp_path) == uri

    @pytest.mark.parametrize(
        "uri",
        ["file:/tmp/mlruns", "mlruns", "/tmp/mlruns", "sqlite://", "sqlite:///:memory:", "s3://b"],
    )
    def test_others_are_refused_with_the_remedy(self, uri, tmp_path):
        with pytest.raises(ConfigError, match=r"tracking: .*use sqlite:///"):
            resolve_uri(uri, tmp_path)

    def test_artifacts_lie_beside_the_database(self, tmp_path):
        uri = resolve_uri(None, tmp_path)
        assert artifact_folder(uri) == tmp_path / "mlartifacts"
        assert artifact_folder("http://h:5000") is None

    def test_ui_command_serves_that_database_on_loopback(self, tmp_path):
        command = ui_command(resolve_uri(None, tmp_path), port=5001)
        options = dict(zip(command[4::2], command[5::2], strict=True))
        assert options["--host"] == "127.0.0.1"
        assert options["--port"] == "5001"
        told = server_environment(resolve_uri(None, tmp_path))
        assert told["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
        assert options["--artifacts-destination"] == f"{tmp_path}/mlartifacts"

    def test_a_server_needs_no_ui_command(self):
        with pytest.raises(ConfigError, match="open http://h:5000"):
            ui_command("http://h:5000")

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "head.example"])
    def test_others_are_served_only_under_names_that_were_given(self, tmp_path, host):
        uri = resolve_uri(None, tmp_path)
        with pytest.raises(
            ConfigError, match=r"--host: .* asks for no password; .*--allowed-hosts"
        ):
            ui_command(uri, host)
        assert ui_command(uri, host, allowed_hosts="head:5000")[-2:] == [
            "--allowed-hosts",
            "head:5000",
        ]

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
    def test_this_machine_is_served_without(self, tmp_path, host):
        assert "--allowed-hosts" not in ui_command(resolve_uri(None, tmp_path), host)


class TestOutbox:
    def test_first_in_first_out_and_once(self, tmp_path):
        spool = Outbox(tmp_path)
        spool.append(op(1), op(2))
        spool.append(op(3))
        assert spool.num_pending == 3
        assert sent(spool, most=2) == [1, 2]
        spool.append(op(4))
        assert sent(spool, most=9) == [3, 4]
        assert (spool.num_pending, sent(spool, most=9)) == (0, [])
        spool.close()

    def test_reading_without_forgetting_reads_again(self, tmp_path):
        spool = Outbox(tmp_path)
        spool.append(op(1))
        assert spool.read(9) == spool.read(9)
        spool.close()

    def test_empty_again_means_an_empty_file(self, tmp_path):
        spool = Outbox(tmp_path)
        for number in range(3):
            spool.append(op(number))
            assert sent(spool, most=9) == [number]
            assert (tmp_path / "operations.jsonl").stat().st_size == 0
        spool.close()

    def test_the_next_owner_goes_on(self, tmp_path):
        spool = Outbox(tmp_path)
        spool.append(op(1), op(2), op(3))
        assert sent(spool, most=1) == [1]
        spool.close()
        assert count_pending(tmp_path) == 2
        spool = Outbox(tmp_path)
        spool.append(op(4))
        assert spool.num_pending == 3
        assert sent(spool, most=9) == [2, 3, 4]
        spool.close()

    def test_a_line_torn_by_a_crash_is_cut(self, tmp_path):
        (tmp_path / "operations.jsonl").write_text(json.dumps(op(1)) + '\n{"do": "lo')
        spool = Outbox(tmp_path)
        spool.append(op(2))
        assert sent(spool, most=9) == [1, 2]
        spool.close()

    @pytest.mark.parametrize(
        "line",
        [
            b'{"do": "lo',
            b"\0" * 100,
            b'{"do": "log", "run": "\xc3"}',
            b"[1]",
            b'{"do": "log"}',
            b"",
        ],
        ids=["torn", "zeros", "half a letter", "a list", "no run", "empty"],
    )
    def test_a_line_that_cannot_be_read_holds_up_no_others(self, tmp_path, line, caplog):
        told = [json.dumps(op(number)).encode() for number in (1, 2)]
        path = tmp_path / "operations.jsonl"
        path.write_bytes(b"\n".join([line, told[0], line, line, told[1], line, b""]))
        spool = Outbox(tmp_path)
        assert [sent(spool, most=9) for _ in range(3)] == [[1], [2], []]
        assert (spool.num_pending, path.stat().st_size) == (0, 0)
        spool.append(op(3))
        assert sent(spool, most=9) == [3]
        aside = (tmp_path / "unreadable.jsonl").read_bytes()
        assert aside.count(line) >= 4
        assert "put aside in" in caplog.text
        spool.close()

    @pytest.mark.parametrize("text", ["", "{", '{"by', "[]", '{"bytes": "7"}', '{"bytes": 7}'])
    def test_where_it_is_not_known_what_was_sent_all_is_sent_again(self, tmp_path, text):
        spool = Outbox(tmp_path)
        spool.append(op(1), op(2))
        spool.close()
        (tmp_path / "sent.json").write_text(text)
        assert count_pending(tmp_path) == 2
        spool = Outbox(tmp_path)
        assert sent(spool, most=9) == [1, 2]
        spool.close()

    def test_a_cut_interrupted_before_it_was_noted(self, tmp_path):
        (tmp_path / "operations.jsonl").write_text("")
        (tmp_path / "sent.json").write_text('{"bytes": 500}')
        spool = Outbox(tmp_path)
        spool.append(op(1))
        assert sent(spool, most=9) == [1]
        spool.close()

    def test_one_process_owns_the_folder(self, tmp_path):
        spool = Outbox(tmp_path)
        other = "import sys; from pathlib import Path\n"
        other += "from stillhouse.search.monitoring.mlflow.outbox import *\n"
        other += "Outbox(Path(sys.argv[1]), lock_timeout=0)"
        done = subprocess.run(
            [sys.executable, "-c", other, str(tmp_path)], capture_output=True, text=True
        )
        assert "Busy: tracking: another process is tracking" in done.stderr
        spool.close()
        with pytest.raises(Busy):
            raise Busy("the error is one of the user's, so the command line shows one line")


class TestHandles:
    def test_known_after_a_restart_and_only_at_the_same_place(self, tmp_path):
        handles = RunIdMap(tmp_path / "runs.jsonl", "http://u:secret@a")
        handles.mark_creating("trial-1")
        handles.set_run_id("trial-1", "abc")
        handles.mark_creating("trial-2")
        again = RunIdMap(tmp_path / "runs.jsonl", "http://u:secret@a")
        assert (again.run_id("trial-1"), again.is_uncertain("trial-1")) == ("abc", False)
        assert (again.run_id("trial-2"), again.is_uncertain("trial-2")) == (None, True)
        assert (again.run_id("trial-3"), again.is_uncertain("trial-3")) == (None, False)
        assert RunIdMap(tmp_path / "runs.jsonl", "http://b").run_id("trial-1") is None
        assert "secret" not in (tmp_path / "runs.jsonl").read_text()

    def test_a_torn_line_takes_no_other_with_it(self, tmp_path):
        path = tmp_path / "runs.jsonl"
        RunIdMap(path, "a").mark_creating("trial-1")
        with path.open("a") as file:
            file.write('\n{"run": "tri')
        RunIdMap(path, "a").set_run_id("trial-2", "x")
        again = RunIdMap(path, "a")
        assert again.is_uncertain("trial-1")
        assert again.run_id("trial-2") == "x"

    @pytest.mark.parametrize(
        "line", [b'{"run": "\xc3', b"\0\0", b"[]", b"1", b'{"place": 1}', b"null"]
    )
    def test_lines_that_say_nothing_are_passed_over(self, tmp_path, line):
        path = tmp_path / "runs.jsonl"
        RunIdMap(path, "a").set_run_id("trial-1", "x")
        with path.open("ab") as file:
            file.write(b"\n" + line)
        RunIdMap(path, "a").set_run_id("trial-2", "y")
        again = RunIdMap(path, "a")
        assert (again.run_id("trial-1"), again.run_id("trial-2")) == ("x", "y")


class TestLimits:
    @pytest.mark.parametrize(
        ("name", "valid"),
        [
            ("student.training.lr", "student.training.lr"),
            ("a[0]=b", "a_0__b"),
            ("/lead/", "lead"),
            ("a/../b", "a_b"),
            ("", "_"),
        ],
    )
    def test_names(self, name, valid):
        assert valid_key(name) == valid

    def test_long_names_stay_distinct(self):
        one, two = valid_key("x" * 300 + "1"), valid_key("x" * 300 + "2")
        assert one != two
        assert len(one) == len(two) == 250

    def test_long_values_are_cut_and_kept_whole_elsewhere(self):
        (told,) = log("trial-1", 0, params={"a": "x" * 600})
        assert told["params"]["a"] == "x" * 500
        assert told["tags"]["stillhouse.value.a"] == "x" * 600
        told, file = log("trial-1", 0, params={"a": "x" * 9000})
        assert len(told["tags"]["stillhouse.value.a"]) == 8000
        assert (file["path"], file["content"]) == ("stillhouse.value.a.txt", "x" * 9000)

    def test_texts_no_database_takes(self):
        (told,) = log("trial-1", 0, tags={"stillhouse.reason": "a\0b\udcffc"})
        assert told["tags"] == {"stillhouse.reason": "a?b?c"}
