"""Write access to a library or a run's folder neither runs code nor reaches other files."""

import builtins
import datetime
import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as as_safetensors
from typer.testing import CliRunner

from stillhouse.methods.core.data.base import array_cache as decoded
from stillhouse.search.artifacts import limits
from stillhouse.search.artifacts.limits import is_inside, require_safe_name
from stillhouse.search.artifacts.need import RunRef, RunReferences
from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.artifacts.store import CorruptArtifact, Library, serialise_tensors
from stillhouse.search.cli.app import app
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.driver.reuse import repeat_winner
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.yaml_source import (
    MAX_BYTES,
    MAX_DEPTH,
    parse_document,
    read_document,
)
from stillhouse.search.monitoring.mlflow.model import check_name
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.weights import read_state

KEY = hashlib.sha256(b"teacher").hexdigest()
LATER = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
ELSEWHERE = ["../../x", "/etc/passwd", "..\\..\\x", "a\0b", "..", ".", "", "C:\\x", "a/b", "a\n"]


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.write_marker = str(mark)

    def __reduce__(self):
        return builtins.open, (self.write_marker, "w")


@pytest.fixture
def sprung(tmp_path):
    """The file that a trap creates when its code runs."""
    mark = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(mark))).close()
    assert mark.exists()  # so it works where somebody falls for it
    mark.unlink()
    yield mark
    assert not mark.exists()


def publish(library, data=None, **changed):
    payload, packed = serialise_tensors({"weight": torch.arange(3.0)})
    if data is not None:
        digest = hashlib.sha256(data).hexdigest()
        name = f"{digest[:32]}.safetensors"
        payload, packed = Payload(name=name, sha256=digest, size=len(data)), data
    told = {
        "key": KEY,
        "name": "teacher",
        "kind": "train",
        "identity": {"seed": 0},
        "payload": payload,
        "figures": {},
        "facts": {},
        "seconds": 1.0,
        "made_at": "2026-01-01T00:00:00+00:00",
    }
    record = Record(**{**told, **changed})
    library.publish(record, packed)
    return record


def rewrite(library, change):
    """Change the record of KEY as another program could, and open the library again."""
    file = Path(library.uri, "artifacts", KEY[:2], KEY, "record.json")
    told = json.loads(file.read_text(encoding="utf-8"))
    change(told)
    file.write_text(json.dumps(told), encoding="utf-8")
    return Library(library.uri)


# Pickles


def test_a_pickle_in_an_artifacts_place_is_damage(disk, sprung):
    """Its size and digest are right: only the format is wrong."""
    publish(disk, pickle.dumps(Trap(sprung)))
    reader = Library(disk.uri)
    with pytest.raises(CorruptArtifact, match="was set aside"):
        reader.open_artifact(KEY)
    assert not Library(disk.uri).has(KEY)


def test_a_zipped_pickle_in_an_artifacts_place_is_damage(disk, sprung, tmp_path):
    torch.save({"weight": Trap(sprung)}, tmp_path / "weights.pt")
    publish(disk, (tmp_path / "weights.pt").read_bytes())
    with pytest.raises(CorruptArtifact):
        Library(disk.uri).open_artifact(KEY)


@pytest.mark.parametrize("digest", [True, False])
def test_a_pickle_in_a_half_done_stages_place_counts_as_none(disk, sprung, digest):
    disk.save_scratch(KEY, {"epoch": torch.tensor(1)})
    data = pickle.dumps(Trap(sprung))
    with open(os.path.join(disk.uri, "scratch", f"{KEY}.safetensors"), "wb") as file:
        file.write((hashlib.sha256(data).digest() if digest else b"") + data)
    assert disk.load_scratch(KEY) is None


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors", "weights"])
@pytest.mark.parametrize("wrap", [False, True])
def test_a_pickle_in_weights_place_is_one_line(sprung, tmp_path, name, wrap):
    file = tmp_path / name
    if wrap:
        torch.save({"state_dict": {"weight": Trap(sprung)}}, file)
    else:
        file.write_bytes(pickle.dumps(Trap(sprung)))
    told = "cannot be read as weights|holds Python objects beside tensors"
    with pytest.raises(ConfigError, match=told) as caught:
        read_state(file)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pickle_among_decoded_images_is_made_anew(sprung, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    trapped = np.empty((1, 2, 2, 3), dtype=object)
    trapped[:] = Trap(sprung)
    np.save(tmp_path / "cache" / "digits.npy", trapped, allow_pickle=True)
    images = np.full((1, 2, 2, 3), 7, dtype=np.uint8)
    found = decoded.cached_images("digits", images.shape, lambda: iter([images]))
    assert np.array_equal(found, images)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "!!python/object/apply:builtins.open ['{mark}', 'w']",
        "!!python/object/new:os.system ['touch {mark}']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!binary aGVsbG8=",
    ],
)
def test_a_tag_in_an_experiment_is_one_line(sprung, tmp_path, text):
    file = tmp_path / "trap.yaml"
    file.write_text(f"name: trap\nstages: {text.format(mark=sprung)}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"trap\.yaml:2: stages: tags are not allowed") as caught:
        load_experiment(file)
    assert len(caught.value.problems) == 1


# Names that lead elsewhere


@pytest.mark.parametrize("name", [*ELSEWHERE, KEY[:-1] + "\n", f"{'1' * 32}.bin"])
def test_a_payload_elsewhere_is_damage(disk, name):
    publish(disk)
    reader = rewrite(disk, lambda told: told["payload"].update(name=name))
    assert reader.record(KEY) is None
    assert not Library(disk.uri).has(KEY)
    publish(disk)
    assert Library(disk.uri).has(KEY)


@pytest.mark.parametrize("name", [*ELSEWHERE, "f" * 64])
def test_a_record_of_another_key_is_damage(disk, name):
    publish(disk)
    assert rewrite(disk, lambda told: told.update(key=name)).record(KEY) is None


@pytest.mark.parametrize("name", [*ELSEWHERE, "F" * 64, "f" * 63, "f" * 65])
def test_parents_are_keys(disk, name):
    publish(disk, parents=("f" * 64,))
    assert Library(disk.uri).has(KEY)
    assert rewrite(disk, lambda told: told.update(parents=[name])).record(KEY) is None


@pytest.mark.parametrize("name", [*ELSEWHERE, KEY[:12]])
def test_what_is_no_key_is_not_there(disk, name, tmp_path):
    publish(disk)
    (tmp_path / "record.json").write_text("{}", encoding="utf-8")
    assert not disk.has(name)
    with pytest.raises(KeyError):
        disk.open_artifact(name)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_scratch_and_searches_have_plain_names(disk, name):
    for use in (disk.load_scratch, disk.clear_scratch, disk.forget_run):
        with pytest.raises(ValueError, match="is no name"):
            use(name)
    with pytest.raises(ValueError, match="is no name"):
        disk.save_scratch(name, {"epoch": torch.tensor(1)})
    with pytest.raises(ValueError, match="is no name"):
        disk.write_references(RunReferences(RunRef(name, name)))
    assert require_safe_name("tiny-1") == "tiny-1"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_command_line_leads_nowhere_else(disk, name, tmp_path):
    publish(disk)
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    for words in (["show", name], ["collect", "--yes", "--forget", name]):
        if words[-1] == "" and words[0] == "show":
            continue  # the beginning of every key
        found = CliRunner().invoke(app, ["library", *words, "--library", disk.uri])
        assert isinstance(found.exception, ConfigError), found.output
    assert (tmp_path / "x.json").exists()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_runs_are_found_in_their_folder_only(name, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny-1").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="unknown run"):
        RunFolder.find(name)
    with pytest.raises(ConfigError):
        repeat_winner(name, {}, 1, None)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_experiments_and_models_have_plain_names(load, name):
    with pytest.raises(ConfigError, match="name: "):
        load(name=name)
    with pytest.raises(ConfigError, match="a stage's name has letters"):
        load(stages={name: {"network": "cnn2", "objective": {"cross_entropy": {}}}}, search={})
    if "/" in name or ":" in name or not name:
        with pytest.raises(ConfigError, match="is no name for a registered model"):
            check_name(name)


def test_a_search_whose_list_is_damaged_is_not_taken_for_one_that_needs_nothing(disk):
    publish(disk)
    disk.write_references(RunReferences(RunRef("tiny-1", "tiny-1"), frozenset({KEY})))
    file = os.path.join(disk.uri, "searches", "tiny-1.json")
    for text in ("", "{", "7", "[[1]]", "{}", '{"keys": 1}', "[" * 100_000):
        with open(file, "w", encoding="utf-8") as out:
            out.write(text)
        with pytest.raises(ConfigError, match=r"searches/tiny-1\.json: is no list of keys"):
            disk.all_references()


# Links


def test_a_link_out_of_the_library_is_neither_read_nor_cleared_away(disk, tmp_path):
    publish(disk)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("mine", encoding="utf-8")
    for folder in ("artifacts", "scratch", "damaged", "searches"):
        os.makedirs(os.path.join(disk.uri, folder), exist_ok=True)
        os.symlink(outside, os.path.join(disk.uri, folder, "link"))
    os.symlink(outside / "precious.txt", os.path.join(disk.uri, "scratch", "file.safetensors"))
    assert disk.orphaned_files(LATER) == []
    assert disk.all_references() == {}
    assert disk.load_scratch("file") is None
    found = CliRunner().invoke(
        app, ["library", "collect", "--yes", "--older", "0", "--library", disk.uri]
    )
    assert found.exit_code == 0, found.output
    assert (outside / "precious.txt").read_text(encoding="utf-8") == "mine"


def test_nothing_is_written_through_a_link(disk, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    os.makedirs(os.path.join(disk.uri, "artifacts"))
    os.symlink(outside, os.path.join(disk.uri, "artifacts", KEY[:2]))
    with pytest.raises(StorageUnavailable, match="leads out of the library"):
        publish(disk)
    assert list(outside.iterdir()) == []


def test_the_library_itself_may_be_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there", tmp_path / "here")
    library = Library(str(tmp_path / "here"))
    publish(library)
    assert Library(str(tmp_path / "there")).open_artifact(KEY).record.name == "teacher"
    assert is_inside(str(tmp_path / "here"), "artifacts")
    assert not is_inside(str(tmp_path / "here"), "../x")


# Sizes


def test_a_record_beyond_all_measure_is_damage(disk, monkeypatch):
    publish(disk)
    monkeypatch.setattr(limits, "MAX_METADATA_BYTES", 100)
    assert Library(disk.uri).record(KEY) is None


def test_a_payload_longer_than_its_record_says_is_not_read_to_its_end(disk):
    record = publish(disk)
    file = os.path.join(disk.uri, "artifacts", KEY[:2], KEY, record.payload.name)
    with open(file, "ab") as out:
        out.truncate(2**40)  # a terabyte, of which the disk holds nothing
    with pytest.raises(CorruptArtifact):
        disk.open_artifact(KEY)


def test_tensors_of_a_kind_nobody_knows_are_damage(disk):
    data = as_safetensors({"weight": torch.ones(2)}).replace(b'"F32"', b'"F99"')
    publish(disk, data)
    with pytest.raises(CorruptArtifact):
        Library(disk.uri).open_artifact(KEY)


def test_a_file_beyond_all_measure_is_one_line(tmp_path):
    file = tmp_path / "large.yaml"
    with file.open("wb") as out:
        out.truncate(2**40)
    for made in (lambda: read_document(file), lambda: parse_document("é" * MAX_BYTES, "x.yaml")):
        with pytest.raises(ConfigError, match=r"\.yaml: is larger than 500,000 bytes"):
            made()


@pytest.mark.parametrize(
    "text",
    [
        'a: &a {"": *a}',  # every path in it is the same, and it has no end
        "\n".join(  # two ways to one path, doubled forty times
            [
                "a0: &a0 1",
                *(f"a{i}: &a{i} {{x: [*a{i - 1}], x.0: *a{i - 1}}}" for i in range(1, 40)),
            ]
        ),
    ],
    ids=["endless", "doubled"],
)
def test_values_are_counted_even_where_their_paths_are_one(text):
    with pytest.raises(ConfigError, match="is too deep or too large; does an alias"):
        parse_document(text, "a.yaml")


def test_what_is_laid_over_is_bounded_too(load):
    with pytest.raises(ConfigError, match=f"--set: a path has at most {MAX_DEPTH} steps"):
        load({".".join("a" * 1000): 1})
