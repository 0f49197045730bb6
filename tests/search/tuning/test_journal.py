"""A journal whose end is torn: what was whole is read, what was torn is put aside."""

import json
import os
import resource

import optuna
import pytest

from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.tuning.journal import JournalFile
from stillhouse.search.tuning.study import Study
from stillhouse.search.tuning.study_reading import StudyReader

FIGURES = {"val_accuracy": 0.5}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "study.journal"


@pytest.fixture
def opened(load, tmp_path):
    """A study to write, or with ``StudyReader`` to read."""
    return lambda kind=Study: kind(load(), tmp_path / "run")


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def whole(path):
    """A journal with its lines, written by nobody else."""
    journal = JournalFile(path, writable=True)
    journal.append_logs([{"op_code": 0, "name": "one"}, {"op_code": 4}])
    journal.append_logs([{"op_code": 6, "state": 1}])
    return list(journal.read_logs(0))


def put_aside(path):
    return [file.read_bytes() for file in path.parent.glob("study.journal.torn-*")]


# The end of a file


def test_any_cut_in_the_last_line_leaves_the_lines_before(tmp_path):
    path = tmp_path / "study.journal"
    entries, text = whole(path), path.read_bytes()
    last = len(lines(path)[-1])
    for cut in range(1, last):
        path.write_bytes(text[:-cut])
        torn = lines(path)[-1] if cut < last else b""
        assert list(JournalFile(path, writable=False).read_logs(0)) == entries[:2]
        journal = JournalFile(path, writable=True)
        assert list(journal.read_logs(0)) == entries[:2]
        journal.append_logs([{"op_code": 9}])
        assert list(JournalFile(path, writable=False).read_logs(0)) == [
            *entries[:2],
            {"op_code": 9},
        ]
        (aside,) = put_aside(path)
        assert aside == torn
        next(path.parent.glob("study.journal.torn-*")).unlink()


TORN = {
    "half a letter": b'{"op_code":8,"user_attr":{"a":"\xc3',
    "half a letter and an end": b'{"op_code":8,"user_attr":{"a":"\xc3"}}\n',
    "a line that ends": b'{"op_code":8,"wor\n',
    "zeros": b"\0" * 4096,
    "zeros and whole lines": b"\0" * 4096 + b'\n{"op_code":9}\n{"op_code":9}\n',
    "several torn blocks": b'{"op_co\n{"op_code":9}\n{"op_code":8,"tri',
    "a torn line and what was added to it": b'{"op_code":8,"t{"op_code":0}\n{"op_code":0}\n',
    "data of another kind": b'[]\n17\n"text"\n{"other":1}\n',
}


@pytest.mark.parametrize("torn", TORN.values(), ids=TORN)
def test_what_follows_the_last_whole_line_is_put_aside(tmp_path, torn, caplog):
    path = tmp_path / "study.journal"
    entries, text = whole(path), path.read_bytes()
    path.write_bytes(text + torn)
    assert list(JournalFile(path, writable=False).read_logs(0)) == entries
    assert path.read_bytes() == text + torn  # who reads repairs nothing
    JournalFile(path, writable=True)
    assert path.read_bytes() == text
    assert put_aside(path) == [torn]
    (said,) = caplog.messages
    assert f"3 whole lines are kept, {len(torn)} bytes behind them are put aside as" in said
    JournalFile(path, writable=True)
    assert put_aside(path) == [torn]


def test_a_whole_file_is_left_alone(tmp_path, caplog):
    path = tmp_path / "study.journal"
    whole(path)
    before = path.read_bytes()
    JournalFile(path, writable=True)
    assert path.read_bytes() == before
    assert not caplog.messages
    assert not put_aside(path)


def test_reading_goes_on_where_it_was(tmp_path):
    path = tmp_path / "study.journal"
    entries = whole(path)
    journal = JournalFile(path, writable=True)
    assert list(journal.read_logs(0)) == entries
    assert list(journal.read_logs(3)) == []
    journal.append_logs([{"op_code": 9}])
    assert list(journal.read_logs(3)) == [{"op_code": 9}]
    assert list(journal.read_logs(2)) == [entries[2], {"op_code": 9}]


def test_optuna_reads_the_same_file(tmp_path):
    path = tmp_path / "study.journal"
    entries = whole(path)
    theirs = optuna.storages.journal.JournalFileBackend(str(path))
    assert list(theirs.read_logs(0)) == entries


def test_who_reads_makes_no_file_and_cannot_write(tmp_path):
    journal = JournalFile(tmp_path / "study.journal", writable=False)
    assert list(journal.read_logs(0)) == []
    with pytest.raises(RuntimeError, match="opened to be read"):
        journal.append_logs([{"op_code": 0}])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_takes_no_half_of_a_line(tmp_path):
    """A limit on the size of files: the system takes the first bytes, as a full disk does."""
    path = tmp_path / "study.journal"
    entries, before = whole(path), path.read_bytes()
    journal = JournalFile(path, writable=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(
            StorageUnavailable, match=r"study: cannot write .*study.journal: .*; make room there"
        ):
            journal.append_logs([{"op_code": 6, "state": 1, "values": [0.25]}])
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append_logs([{"op_code": 9}])
    assert list(JournalFile(path, writable=False).read_logs(0)) == [*entries, {"op_code": 9}]


def test_only_what_must_outlive_a_loss_of_power_waits_for_the_disk(opened, monkeypatch, path):
    study = opened()
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(lines(path)[-1]), fsync(handle)))
    proposal = study.ask()
    assert json.loads(synced[-1])["user_attr"].keys() == {"known"}
    assert lines(path)[-1] == synced[-1]  # all that a trial is, before it is handed out
    study.tell(proposal.number, FIGURES)
    assert json.loads(synced[-1])["state"] == 1
    assert len(synced) == 2


# A study


@pytest.mark.parametrize("looks", [0, 2])
def test_a_torn_study_goes_on_after_any_number_of_looks(opened, path, looks):
    before = opened()
    for _ in range(2):
        before.tell(before.ask().number, FIGURES)
    text = path.read_bytes()
    path.write_bytes(text[: -len(lines(path)[-1]) // 2])
    for _ in range(looks):
        assert [t.state for t in opened(StudyReader).trials()] == ["finished", "running"]
    after = opened()
    assert [t.state for t in after.trials()] == ["finished", "running"]
    assert after.ask().number == 1
    assert after.tell(1, FIGURES).state == "finished"
    assert [t.state for t in opened(StudyReader).trials()] == ["finished", "finished"]


def test_the_first_line_of_all_is_torn(opened, path):
    opened()
    path.write_bytes(path.read_bytes()[:-5])
    assert opened(StudyReader).trials() == []
    assert opened().ask().number == 0
