"""Where things lie is fixed by a launch, and decides no stage's key."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.kept import load_run
from stillhouse.search.runs.locations import with_absolute_paths
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.network_spec import NetworkSpec

CSV = "text,label\n" + "".join(
    f"w{n % 7} {'good' if n % 2 else 'bad'},{n % 2}\n" for n in range(60)
)
VECTORS = "".join(f"{word} {n}.0 1.0 2.0\n" for n, word in enumerate(("good", "bad", "w1", "w2")))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a text data set, word vectors and a file of weights."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "launched"
    (folder / "texts").mkdir(parents=True)
    for name in ("train.csv", "test.csv"):
        (folder / "texts" / name).write_text(CSV)
    (folder / "texts" / "vectors.txt").write_text(VECTORS)
    network = NetworkSpec.parse("text_cnn").build((3, 4, 1), 2)
    own = {k: t for k, t in network.state_dict().items() if k not in ("mean", "std")}
    torch.save(own, folder / "teacher.pt")
    monkeypatch.chdir(folder)
    return folder


def texts(**more):
    """An experiment whose every place is relative."""
    student = {"network": "text_cnn", "objective": {"cross_entropy": {}}, "training": {"epochs": 1}}
    return {
        "name": "texts",
        "data": {
            "source": {"text": {"length": 4, "embedding": {"path": "vectors.txt"}}},
            "root": "texts",
        },
        "stages": {
            "teacher": {"network": "text_cnn", "weights": "teacher.pt"},
            "student": {**student, "teachers": ["teacher"], "objective": {"soft_targets": {}}},
        },
        **more,
    }


def test_every_place_becomes_absolute(place):
    told = with_absolute_paths(load_experiment(texts()), place).plain()
    assert told["library"] == str(place / "stillhouse-library")
    assert told["tracking"] == f"sqlite:///{place}/mlflow.db"
    assert told["data"]["root"] == str(place / "texts")
    path = told["data"]["source"]["text"]["embedding"]["path"]
    assert path == str(place / "texts" / "vectors.txt")
    assert told["stages"]["teacher"]["weights"] == str(place / "teacher.pt")


def test_places_of_single_entries_and_of_searches_become_absolute(place):
    told = texts(
        search={
            "student.data.root": {"choice": ["texts", "./texts"]},
            "teacher.weights.path": {"choice": ["teacher.pt"]},
        },
        goal={"maximize": "student.val_accuracy"},
        library="~/lib",
        tracking="sqlite:///runs/mlflow.db",
    )
    told["stages"]["teacher"]["weights"] = {"path": "teacher.pt"}
    told["stages"]["student"]["data"] = {"root": "texts"}
    found = with_absolute_paths(load_experiment(told), place).plain()
    assert found["stages"]["student"]["data"]["root"] == str(place / "texts")
    assert found["stages"]["teacher"]["weights"]["path"] == str(place / "teacher.pt")
    roots = found["search"]["student.data.root"]["choice"]
    assert roots == [f"{place}/texts", f"{place}/./texts"]
    assert found["search"]["teacher.weights.path"]["choice"] == [str(place / "teacher.pt")]
    assert found["tracking"] == f"sqlite:///{place}/runs/mlflow.db"
    assert found["library"] == str(Path("~/lib").expanduser())
    # Roots differ between entries, so word vectors lie from each entry's own on.
    assert found["data"]["source"]["text"]["embedding"]["path"] == "vectors.txt"


def test_no_key_depends_on_where_things_lie(place, tmp_path, monkeypatch):
    keys = load_experiment(texts()).stage_graph().keys_by_label
    found = with_absolute_paths(load_experiment(texts()), place)
    assert found.stage_graph().keys_by_label == keys
    monkeypatch.chdir(tmp_path)
    assert load_experiment(found.plain()).stage_graph().keys_by_label == keys


def test_what_is_absolute_or_elsewhere_stays(place):
    told = texts(library="s3://bucket/path?region=eu-1", tracking="http://mlflow:5000")
    told["data"]["root"] = str(place / "texts")
    found = with_absolute_paths(load_experiment(told), place / "other")
    assert found.library.startswith("s3://bucket/path?")
    assert found.tracking == "http://mlflow:5000"
    assert found.data.root == str(place / "texts")


@pytest.fixture
def earlier(place, monkeypatch):
    """A run folder of an earlier version, whose places are relative; this is another folder."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(place.parent / "runs"))
    folder = RunFolder.new("texts")
    folder.write("experiment.yaml", yaml.safe_dump(texts(library="stillhouse-library")))
    monkeypatch.chdir(place.parent)
    return folder


def test_a_run_of_an_earlier_version_means_what_it_meant(earlier, place):
    told = {"library": {"place": str(place / "stillhouse-library")}}
    earlier.write_json("status.json", told)
    run = load_run(earlier)
    assert run.library == str(place / "stillhouse-library")
    assert run.data.root == str(place / "texts")
    assert run.tracking == f"sqlite:///{place}/mlflow.db"


def test_mlflows_database_tells_where_an_earlier_run_was_launched(earlier, place):
    (earlier.path / "tracking").mkdir()
    told = json.dumps({"uri": f"sqlite:///{place}/mlflow.db"})
    (earlier.path / "tracking" / "search.json").write_text(told)
    assert load_run(earlier).library == str(place / "stillhouse-library")


def test_without_any_sign_the_working_folder_counts(earlier, place, monkeypatch):
    with pytest.raises(ConfigError, match="texts"):
        load_run(earlier)
    monkeypatch.chdir(place)
    assert load_run(earlier).data.root == str(place / "texts")
