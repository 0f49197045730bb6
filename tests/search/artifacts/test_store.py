"""The library: artifacts are complete or absent, and verified whenever they are read.

The same tests run with a folder and with a bucket.
"""

import contextlib
import datetime
import hashlib
import json
import multiprocessing
import os
import pickle
import threading

import pytest
import torch
from typer.testing import CliRunner

from stillhouse.search.artifacts.files import FileStore
from stillhouse.search.artifacts.need import RunRef, RunReferences
from stillhouse.search.artifacts.record import CorruptRecord, Record, dump_record, parse_record
from stillhouse.search.artifacts.store import CorruptArtifact, Library, serialise_tensors
from stillhouse.search.cli.app import app
from stillhouse.search.core.addresses import for_display
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError

NOW = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
LONG_AGO = NOW - datetime.timedelta(days=1, hours=1)


@pytest.fixture(params=["disk", "s3"])
def library(request):
    """A library on this disk, and one on an S3 server."""
    if request.param == "disk":
        return request.getfixturevalue("disk")
    return Library(request.getfixturevalue("bucket"))


class Down(Exception):
    """The machine has crashed."""


def key(name):
    return hashlib.sha256(name.encode()).hexdigest()


def tensors(seed=0):
    """Tensors of every type that a stage may return."""
    chance = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 4, 2, 2, generator=chance)
    return {
        "conv.weight": weights.to(memory_format=torch.channels_last),
        "half": weights.bfloat16(),
        "count": torch.tensor(7),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "empty": torch.empty(0, 3),
    }


def publish(library, name="teacher", seed=0, parents=(), **changed):
    payload, data = serialise_tensors(tensors(seed))
    fields = {
        "key": key(name),
        "name": name,
        "kind": "train",
        "identity": {"seed": seed},
        "parents": tuple(key(parent) for parent in parents),
        "payload": payload,
        "figures": {"val_accuracy": 0.5},
        "curve": ({"epoch": 1.0}, {"epoch": 2.0}),
        "facts": {"device": "none", "names": ("a", "b")},
        "seconds": 1.5,
        "made_at": "2026-01-01T00:00:00+00:00",
    }
    record = Record(**{**fields, **changed})
    library.publish(record, data)
    return record


def same_bits(a, b):
    return all(
        torch.equal(a[name].contiguous().view(torch.uint8), b[name].contiguous().view(torch.uint8))
        if a[name].dim()
        else torch.equal(a[name], b[name])
        for name in a.keys() | b.keys()
    )


def payload_path(record):
    return f"artifacts/{record.key[:2]}/{record.key}/{record.payload.name}"


def record_path(record):
    return f"artifacts/{record.key[:2]}/{record.key}/record.json"


def read(library, path):
    """The file's bytes, read without the library."""
    with library.files.filesystem.open_input_stream(path) as stream:
        return stream.read()


def overwrite(library, path, data):
    with library.files.filesystem.open_output_stream(path) as stream:
        stream.write(data)


def files(library):
    return [info.path for info in library.files.list_files("")]


# Round trip


def test_what_is_published_is_opened_bit_for_bit(library):
    record = publish(library)
    for reader in (library, Library(library.uri)):
        artifact = reader.open_artifact(record.key)
        assert artifact.record == record
        assert artifact.tensors.keys() == tensors().keys()
        assert same_bits(artifact.tensors, tensors())
        assert all(artifact.tensors[n].dtype == t.dtype for n, t in tensors().items())
        assert all(artifact.tensors[n].shape == t.shape for n, t in tensors().items())


def test_a_record_says_what_its_payload_is(library):
    record = publish(library)
    data = read(library, payload_path(record))
    assert len(data) == record.payload.size
    assert hashlib.sha256(data).hexdigest() == record.payload.sha256
    assert record.payload.name.startswith(record.payload.sha256[:32])


def test_equal_tensors_are_equal_bytes():
    (first, data), (again, same) = (
        serialise_tensors(tensors()),
        serialise_tensors(dict(reversed(tensors().items()))),
    )
    assert first == again
    assert data == same
    assert serialise_tensors(tensors(seed=1))[0].sha256 != first.sha256


def test_what_is_not_there_is_not_there(library):
    assert not library.has(key("teacher"))
    assert library.record(key("teacher")) is None
    assert list(library.keys()) == library.records() == []
    with pytest.raises(KeyError):
        library.open_artifact(key("teacher"))


def test_a_library_travels_to_workers_as_its_address(library):
    record = publish(library)
    assert pickle.loads(pickle.dumps(library)).record(record.key) == record


@pytest.mark.parametrize("name", ["with space", "per%20cent", "hash#1", "ümlaut", "deep/er"])
def test_a_library_may_lie_in_any_folder(tmp_path, name):
    library = Library(str(tmp_path / name))
    library.check_writable()
    record = publish(library)
    assert (tmp_path / name / "artifacts").is_dir()
    assert Library(str(tmp_path / name)).open_artifact(record.key).record == record


def test_a_relative_folder_is_meant_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    library = Library("here")
    publish(library)
    monkeypatch.chdir("/")
    assert library.uri == str(tmp_path / "here")
    assert len(Library(library.uri).records()) == 1


def test_a_library_may_be_a_uri(tmp_path):
    library = Library(f"file://{tmp_path}/store")
    record = publish(library)
    assert Library(str(tmp_path / "store")).has(record.key)


def test_any_file_system_of_pyarrow_will_do():
    """A file system in memory with an address of its own."""
    library = Library("mock:///bucket/library")
    library.check_writable()
    record = publish(library)
    library.save_scratch("k", tensors())
    library.write_references(RunReferences(RunRef("run-1", "run-1"), frozenset({record.key})))
    library._records.clear()
    assert same_bits(library.load_scratch("k"), tensors())
    assert same_bits(library.open_artifact(record.key).tensors, tensors())
    assert library.all_references()["run-1"].keys == {record.key}
    library.quarantine(record.key)
    assert library.records() == []
    assert len(library.orphaned_files(NOW)) == 3
    publish(library)
    library.remove_artifact(record.key)
    assert not library.has(record.key)


def test_being_writable_leaves_nothing_behind(library):
    library.check_writable()
    assert files(library) == []


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:-1],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: data + b"\0",
    ],
    ids=["empty", "cut", "one bit", "longer"],
)
def test_a_damaged_payload_is_set_aside_and_never_served(library, damage):
    record = publish(library)
    path = payload_path(record)
    overwrite(library, path, damage(read(library, path)))
    reader = Library(library.uri)
    with pytest.raises(CorruptArtifact, match=r"\(teacher\) is damaged and was set aside"):
        reader.open_artifact(record.key)
    assert not reader.has(record.key)
    assert not Library(library.uri).has(record.key)
    (copy,) = [p for p in reader.orphaned_files(NOW) if p.endswith(".safetensors")]
    assert copy.startswith(f"damaged/{record.key}-")
    publish(reader)
    assert same_bits(reader.open_artifact(record.key).tensors, tensors())


def test_a_missing_payload_is_damage_too(library):
    record = publish(library)
    library.files.delete(payload_path(record))
    with pytest.raises(CorruptArtifact):
        library.open_artifact(record.key)
    assert not library.has(record.key)


def test_two_readers_may_find_the_same_damage(library):
    record = publish(library)
    readers = [Library(library.uri), Library(library.uri)]
    assert all(reader.has(record.key) for reader in readers)
    overwrite(library, payload_path(record), b"")
    for reader in readers:
        with pytest.raises(CorruptArtifact):
            reader.open_artifact(record.key)
        assert not reader.has(record.key)


def test_damage_does_not_touch_other_artifacts(library):
    bad, good = publish(library), publish(library, "other", parents=["teacher"])
    overwrite(library, payload_path(bad), b"")
    with pytest.raises(CorruptArtifact):
        library.open_artifact(bad.key)
    assert same_bits(Library(library.uri).open_artifact(good.key).tensors, tensors())
    assert [record.key for record in Library(library.uri).records()] == [good.key]


@pytest.mark.parametrize("text", ["", "{", "\udcff"])
def test_a_record_that_is_none_is_set_aside(library, text):
    record = publish(library)
    overwrite(library, record_path(record), text.encode(errors="surrogateescape"))
    reader = Library(library.uri)
    assert reader.record(record.key) is None
    assert reader.records() == []
    publish(reader)
    assert Library(library.uri).has(record.key)


def test_no_bit_of_a_record_flips_unnoticed(disk):
    """The text is rejected, or means what was written (a space became a tab)."""
    record = publish(disk)
    text = dump_record(record)
    assert parse_record(text, record.key, "") == record
    same = 0
    for place in range(len(text) * 8):
        damaged = bytearray(text)
        damaged[place // 8] ^= 1 << place % 8
        with contextlib.suppress(CorruptRecord):
            assert parse_record(bytes(damaged), record.key, "") == record
            same += 1
    assert same < len(text) // 2  # of 8 times as many


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b"0.5", b"0.7"),
        lambda text: text.replace(b'"checksum"', b'"checksun"'),
        lambda text: text[: len(text) // 2],
        lambda _: b"",
        lambda _: b"[1]",
    ],
    ids=["another figure", "no checksum", "truncated", "empty", "no record"],
)
def test_a_damaged_record_is_set_aside_and_never_served(library, damage):
    record = publish(library)
    text = read(library, record_path(record))
    assert damage(text) != text
    overwrite(library, record_path(record), damage(text))
    reader = Library(library.uri)
    assert reader.record(record.key) is None
    with pytest.raises(KeyError):
        reader.open_artifact(record.key)
    assert list(reader.keys()) == []
    assert any(path.startswith(f"damaged/{record.key}") for path in reader.orphaned_files(NOW))
    publish(reader)
    assert same_bits(Library(library.uri).open_artifact(record.key).tensors, tensors())


def test_a_record_in_the_place_of_another_is_set_aside(library):
    one, other = publish(library), publish(library, "other")
    overwrite(library, record_path(one), read(library, record_path(other)))
    assert Library(library.uri).record(one.key) is None
    assert Library(library.uri).record(other.key) == other


def test_a_record_of_before_there_were_checksums_is_held_against_its_key(library):
    identity = {"seed": 0}
    record = publish(library, key=fingerprint(identity), identity=identity)
    told = record.plain()
    overwrite(library, record_path(record), json.dumps(told).encode())
    assert Library(library.uri).record(record.key) == record
    told["identity"] = {"seed": 1}
    overwrite(library, record_path(record), json.dumps(told).encode())
    assert Library(library.uri).record(record.key) is None


def test_a_reader_with_an_old_record_finds_the_new_artifact(library):
    """Published again with other bits, while the old payload was collected."""
    record = publish(library)
    reader = Library(library.uri)
    assert reader.has(record.key)
    publish(Library(library.uri), seed=1)
    library.files.delete(payload_path(record))
    assert same_bits(reader.open_artifact(record.key).tensors, tensors(1))
    assert Library(library.uri).has(record.key)


def test_a_record_of_another_version_is_left_alone(library):
    record = publish(library)
    told = {**record.plain(), "colour": "red"}
    text = json.dumps(told, indent=1, sort_keys=True).encode()
    other = json.dumps({**told, "checksum": hashlib.sha256(text).hexdigest()}).encode()
    overwrite(library, record_path(record), other)
    with pytest.raises(ConfigError, match=r"record\.json: unknown field 'colour'"):
        Library(library.uri).record(record.key)
    assert read(library, record_path(record)) == other


# Writes that were torn, and writers at the same time


def test_a_payload_without_a_record_is_no_artifact(library, monkeypatch):
    write = FileStore.write

    def torn(self, path, data, *more):
        if path.endswith("record.json"):
            raise Down
        write(self, path, data, *more)

    with monkeypatch.context() as at_first:
        at_first.setattr(FileStore, "write", torn)
        with pytest.raises(Down):
            publish(library)
    reader = Library(library.uri)
    assert not reader.has(key("teacher"))
    assert list(reader.keys()) == []
    assert len(reader.orphaned_files(NOW)) == 1
    publish(reader)
    assert reader.orphaned_files(NOW) == []


def test_a_half_written_file_is_never_seen(disk):
    """A reader sees the old file or the new one, complete."""
    library = disk
    first = publish(library)
    handler = Library(library.uri)
    handler.files.filesystem = Torn(library.files.filesystem)
    with pytest.raises(Down):
        publish(handler, seed=1)
    reader = Library(library.uri)
    assert reader.record(first.key) == first
    assert same_bits(reader.open_artifact(first.key).tensors, tensors())
    assert [".part-" in path for path in reader.orphaned_files(NOW)] == [True]
    for path in reader.orphaned_files(NOW):
        reader.remove_file(path)
    assert reader.orphaned_files(NOW) == []


def test_a_publisher_whose_half_file_is_collected_writes_it_again(disk):
    """The clock of a disk is coarse: a new file may look older than it is."""
    publisher = Library(disk.uri)
    publisher.files.filesystem = Collected(disk.files.filesystem)
    record = publish(publisher)
    assert publisher.files.filesystem.accepted == 1
    assert same_bits(Library(disk.uri).open_artifact(record.key).tensors, tensors())


class Collected:
    """A file system where a collector deletes the first file before it is moved into place."""

    def __init__(self, files):
        self.files = files
        self.accepted = 0

    def __getattr__(self, name):
        return getattr(self.files, name)

    def move(self, source, target):
        if not self.accepted:
            self.accepted += 1
            self.files.delete_file(source)
        self.files.move(source, target)


class Torn:
    """A file system whose machine crashes before a file is moved into place."""

    def __init__(self, files):
        self.files = files

    def __getattr__(self, name):
        return getattr(self.files, name)

    def move(self, source, target):
        raise Down


def _publish_often(uri, seed, times):
    library = Library(uri)
    for _ in range(times):
        publish(library, seed=seed)


def _open_often(uri, times, found):
    for _ in range(times):
        try:
            library = Library(uri)
            seed = library.open_artifact(key("teacher")).record.identity["seed"]
            found.put(("whole", seed))
        except KeyError:
            found.put(("none", 0))
        except CorruptArtifact as error:
            found.put(("damaged", str(error)))


def test_publishers_of_one_key_do_not_harm_each_other(disk):
    """Four processes write two contents under one key while another process reads."""
    library = disk
    spawn = multiprocessing.get_context("fork")
    found = spawn.Queue()
    writers = [
        spawn.Process(target=_publish_often, args=(library.uri, seed % 2, 25)) for seed in range(4)
    ]
    reader = spawn.Process(target=_open_often, args=(library.uri, 60, found))
    for process in (*writers, reader):
        process.start()
    seen = [found.get(timeout=60) for _ in range(60)]
    for process in (*writers, reader):
        process.join(60)
        assert process.exitcode == 0
    assert {what for what, _ in seen} <= {"whole", "none"}
    artifact = Library(library.uri).open_artifact(key("teacher"))
    assert same_bits(artifact.tensors, tensors(artifact.record.identity["seed"]))
    assert not [p for p in library.orphaned_files(NOW) if ".part-" in p]


def test_publishers_at_the_same_time_leave_one_whole_artifact(library):
    """On every store; threads, as the client of an object store does not survive a fork."""
    writers = [
        threading.Thread(target=_publish_often, args=(library.uri, seed, 5)) for seed in (0, 1)
    ]
    for writer in writers:
        writer.start()
    found = []
    while any(writer.is_alive() for writer in writers):
        try:
            artifact = Library(library.uri).open_artifact(key("teacher"))
        except KeyError:
            continue
        found.append(same_bits(artifact.tensors, tensors(artifact.record.identity["seed"])))
    for writer in writers:
        writer.join()
    assert all(found)
    last = Library(library.uri).open_artifact(key("teacher"))
    assert same_bits(last.tensors, tensors(last.record.identity["seed"]))
    assert len([path for path in library.orphaned_files(NOW) if path.endswith(".safetensors")]) == 1


# Half-done stages


def test_a_half_done_stage_is_kept_until_it_is_whole(library):
    assert library.load_scratch(key("teacher")) is None
    library.save_scratch(key("teacher"), tensors())
    library.save_scratch(key("teacher"), tensors(1))
    assert same_bits(Library(library.uri).load_scratch(key("teacher")), tensors(1))
    assert not library.has(key("teacher"))
    publish(library)
    assert library.load_scratch(key("teacher")) is None
    library.clear_scratch(key("teacher"))


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda d: d[:20], lambda d: d[:-1], lambda d: d + b"x"]
)
def test_a_torn_half_done_stage_counts_as_none(library, damage):
    library.save_scratch("k", tensors())
    path = "scratch/k.safetensors"
    overwrite(library, path, damage(read(library, path)))
    assert library.load_scratch("k") is None


# Finding and collecting


def test_a_record_is_found_by_the_beginning_of_its_key(library):
    records = [publish(library, f"stage {i}") for i in range(20)]
    for record in records:
        assert Library(library.uri).find_by_prefix(record.key[:16]) == record
    with pytest.raises(ConfigError, match="begins with 'zz'; none does"):
        library.find_by_prefix("zz")
    with pytest.raises(ConfigError, match="begins with ''; 20 do"):
        library.find_by_prefix("")


def test_records_come_newest_first(library):
    for day in (2, 3, 1):
        publish(library, f"day {day}", made_at=f"2026-01-0{day}T00:00:00+00:00")
    assert [record.name for record in Library(library.uri).records()] == ["day 3", "day 2", "day 1"]


def test_what_is_removed_is_gone(library):
    record, other = publish(library), publish(library, "other")
    library.remove_artifact(record.key)
    assert not library.has(record.key)
    assert Library(library.uri).records() == [other]
    assert sorted(files(library)) == sorted([payload_path(other), record_path(other)])


def test_searches_say_what_they_need(library):
    one = RunReferences(
        RunRef("one-1-0badcafe", "one-1", "laptop", "/runs/one-1"), frozenset("bc"), False
    )
    two = RunReferences(RunRef("one-1-12345678", "one-1", "tower", "/runs/one-1"), frozenset("d"))
    library.write_references(RunReferences(one.run, frozenset("ab")))
    library.write_references(one)
    library.write_references(two)
    assert Library(library.uri).all_references() == {one.run.id: one, two.run.id: two}
    assert library.references_of(one.run.id) == one
    library.forget_run(one.run.id)
    library.forget_run(one.run.id)
    assert library.all_references() == {two.run.id: two}
    assert library.references_of(one.run.id) is None


def test_a_list_of_keys_of_an_earlier_version_is_read(library):
    library.files.write("searches/one-1.json", b'["a", "b"]')
    assert library.all_references() == {
        "one-1": RunReferences(RunRef("one-1", "one-1"), frozenset("ab"))
    }


def test_what_others_left_in_a_library_is_passed_over(library):
    """Incomplete files, and names that no library gives."""
    record = publish(library)
    need = RunReferences(RunRef("run-1-0badcafe", "run-1"), frozenset({record.key}))
    library.write_references(need)
    library.write_status(need.run.id, "laptop", "{}")
    strange = [
        *("artifacts/.DS_Store", "artifacts/notes.txt", "artifacts/xy/record.json"),
        *(f"artifacts/{record.key[:2]}/{record.key}/notes.txt", "scratch/a b.txt"),
        *("damaged/notes.txt", "searches/.run-1.json.part-0badcafe", "searches/deep/run-2.json"),
        *("searches/my notes.json", "searches/._run-1.json", "searches/run-1.txt"),
        *("status/notes.json", "status/.run-1@laptop.json.part-0badcafe", "status/a b@c.json"),
    ]
    for path in strange:
        library.files.write(path, b"\xff{")
    library.files.write("status/run-2@laptop.json", b"\xff")
    assert list(library.keys()) == [record.key]
    assert library.all_references() == {need.run.id: need}
    assert library.statuses() == {need.run.id: ["{}"], "run-2": ["\ufffd"]}
    assert library.orphaned_files(NOW) == []
    for words in (["list"], ["verify"], ["collect", "--older", "-1", "--yes"]):
        assert ran(*words, library=library).exit_code == 0
    assert set(strange) <= set(files(library))
    assert library.has(record.key)


# The command line


def ran(*words, library):
    return CliRunner().invoke(app, ["library", *words, "--library", library.uri])


def test_verify_looks_at_all_and_names_each_damaged_one(library):
    torn, newer, cut, whole = (publish(library, name) for name in ("torn", "newer", "cut", "whole"))
    overwrite(library, record_path(torn), b"{")
    told = {**newer.plain(), "colour": "red"}
    text = json.dumps(told, indent=1, sort_keys=True).encode()
    told["checksum"] = hashlib.sha256(text).hexdigest()
    overwrite(library, record_path(newer), json.dumps(told).encode())
    overwrite(library, payload_path(cut), b"")
    found = ran("verify", "--json", library=library)
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert told["checked"] == 4
    lines = told["damaged"]
    assert len(lines) == 3
    assert f"artifact {cut.key[:12]} (cut) is damaged and was set aside" in lines
    (another,) = [line for line in lines if "another version" in line]
    assert another.startswith(f"artifact {newer.key[:12]} has a record of another version: ")
    assert f"{newer.key}/record.json: unknown field 'colour'" in another
    begins = f"the record of artifact {torn.key[:12]} is damaged and was set aside: "
    assert any(line.startswith(begins) for line in lines)
    assert all("\n" not in line for line in lines)
    again = ran("verify", library=library)
    assert again.exit_code == 1
    assert "2 artifacts checked, 1 damaged" in again.stdout
    assert Library(library.uri).open_artifact(whole.key).record == whole


@pytest.mark.parametrize("words", [["list"], ["verify"], ["collect"], ["show", "ab"]])
def test_to_look_at_a_mistyped_library_begins_none(library, words):
    publish(library)
    mistyped = library.uri.replace("/library", "/libary")
    found = CliRunner().invoke(app, ["library", *words, "--library", mistyped])
    assert isinstance(found.exception, ConfigError), found.output
    (problem,) = found.exception.problems
    assert str(problem).startswith(f"--library: there is no library at {for_display(mistyped)}; ")
    assert "--library PLACE" in str(problem)
    assert library.is_object_store or not os.path.exists(mistyped)
    other = Library(mistyped)  # the place of something else
    other.files.write("pictures/cat.txt", b"")
    found = CliRunner().invoke(app, ["library", *words, "--library", mistyped])
    assert isinstance(found.exception, ConfigError), found.output
    assert files(other) == ["pictures/cat.txt"]


def test_leftovers_are_what_belongs_to_nothing_and_lies_there_for_a_while(library):
    publish(library)
    publish(library, seed=1)  # the first payload is superseded
    library.save_scratch("half-done", tensors())
    library.write_references(RunReferences(RunRef("run-1", "run-1"), frozenset({key("teacher")})))
    assert library.orphaned_files(LONG_AGO) == []
    found = library.orphaned_files(NOW)
    assert len(found) == 2
    assert found[1] == "scratch/half-done.safetensors"
    for path in found:
        library.remove_file(path)
    assert library.orphaned_files(NOW) == []
    assert same_bits(Library(library.uri).open_artifact(key("teacher")).tensors, tensors(1))
