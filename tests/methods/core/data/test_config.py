"""What decides the result is in the identity, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stillhouse.methods.core.data.base.file_fingerprint import files_fingerprint
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.spaces.config.base import canonical_json, fingerprint
from stillhouse.spaces.config.problems import ConfigError


def data(**settings: Any) -> DataConfig:
    return DataConfig.parse({"source": "digits", **settings})


@pytest.mark.parametrize(
    "settings", [{"root": "/some/where"}, {"download": True}, {"resident_mb": 0}]
)
def test_where_and_how_is_not_in_the_identity(settings: dict[str, Any]) -> None:
    assert data(**settings).identity() == data().identity()


@pytest.mark.parametrize(
    "settings",
    [
        {"validation": 0.2},
        {"split_seed": 1},
        {"limit": 100},
        {"resize": 16},
        {"augment": {"flip": True}},
        {"augment": {"crop": 1, "pad_mode": "reflect"}},
        {"augment": {"views": 3}},
        {"augment": {"seed": 3}},
        {"augment": {"noise": True}},
        {"normalise": {"mean": [0.5], "std": [0.5]}},
    ],
)
def test_what_decides_the_result_is(settings: dict[str, Any]) -> None:
    assert fingerprint(data(**settings).identity()) != fingerprint(data().identity())


def test_what_was_made_before_there_was_noise_keeps_its_name() -> None:
    """Were ``noise: false`` in the identity, every stage ever made would be made again."""
    known = {"crop": 0, "cutout": 0, "flip": True, "pad_mode": "zero", "seed": 0, "views": None}
    assert data(augment={"flip": True}).identity()["augment"] == known
    assert data(augment={"noise": False}).identity() == data().identity()


def test_limits_of_both_splits() -> None:
    known = facts(data(validation=0.25, limit={"train": 100, "validation": 50}))
    assert (known.sizes["train"], known.sizes["validation"]) == (100, 50)
    alone = facts(data(validation=0.25, limit={"validation": 50}))
    assert (alone.sizes["train"], alone.sizes["validation"]) == (1078, 50)
    (batch,) = open_data(data(validation=0.25, limit={"validation": 50})).batches(
        "validation", batch_size=64, device="cpu"
    )
    assert len(batch.labels) == 50


def test_a_limit_of_training_alone_keeps_the_name_it_always_had() -> None:
    plain = data(limit=100)
    assert plain.identity()["limit"] == 100
    assert data(limit={"train": 100}) == plain
    assert data(limit={}) == data(limit={"train": None}) == data()
    both = data(limit={"train": 100, "validation": 50})
    assert fingerprint(both.identity()) != fingerprint(plain.identity())
    assert DataConfig.parse(both.plain()) == both


def test_only_the_limit_of_validation_changes_what_judges() -> None:
    judges = [
        fingerprint(data(limit=limit).validation_identity())
        for limit in (None, 100, {"train": 9}, {"validation": 50}, {"train": 9, "validation": 50})
    ]
    assert judges[0] == judges[1] == judges[2]
    assert judges[3] == judges[4] != judges[0]


def test_a_rare_class_that_trains_is_in_the_identity_and_others_keep_their_names() -> None:
    """Of 1,438 digits the order alone would leave 6 to train, so none of some classes."""
    assert "rare" not in data(validation=0.5).identity()
    assert data(validation=0.0).rare_training_rows() == ()
    few = data(validation=0.996)
    kept = few.rare_training_rows()
    assert kept
    assert few.identity()["rare"] == "train"
    (note,) = facts(few).notes
    assert note.startswith(f"validation would hold out all examples of {len(kept)} rare classes")
    labels = few.named_source()[1].labels("train")
    assert len(set(labels[open_data(few)._splits.train])) == 10


def test_classes_without_a_training_example_are_told() -> None:
    (note,) = facts(data(limit=5)).notes
    assert note.startswith("5 of 10 classes have no training example: '")
    assert facts(data(limit=100)).notes == ()
    assert facts(data(classes=[1, 2])).notes == ()


def test_two_ways_to_write_a_source_are_one() -> None:
    plain, mapping = data(), data(source={"digits": {}})
    assert canonical_json(plain.identity()) == canonical_json(mapping.identity())


def test_versions_and_content_are_in_the_identity() -> None:
    identity = data().identity()
    assert identity["version"] == DataConfig.version
    assert identity["source"]["digits"]["version"] == 1
    assert len(identity["source"]["digits"]["fingerprint"]) == 64


def test_settings_read_back_what_they_write() -> None:
    config = data(normalise={"mean": [0.5], "std": [0.5]}, augment={"flip": True})
    assert DataConfig.parse(config.plain()) == config


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"validation": 1.0}, "validation"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": "1:30"}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": [1, 2]}, "limit"),
        ({"limit": {"train": 0}}, "limit.train"),
        ({"limit": {"validation": -1}}, "limit.validation"),
        ({"limit": {"test": 5}}, "limit"),
        ({"augment": {"flip": "yes"}}, "augment.flip"),
        ({"normalise": {"mean": [0.5], "std": [0.0]}}, "normalise"),
        ({"normalise": {"mean": [0.5, 0.5], "std": [0.5]}}, "normalise"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        data(**settings)
    assert [problem.path for problem in caught.value.problems] == [path]


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"augment": {"crop": 8}}, "augment.crop"),
        ({"limit": 5000}, "limit"),
        ({"limit": {"validation": 5000}}, "limit.validation"),
        ({"validation": 0.9999}, "validation"),
        ({"normalise": {"mean": [0.5] * 3, "std": [0.5] * 3}}, "normalise"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(
    settings: dict[str, Any], path: str
) -> None:
    for action in (facts, open_data):
        with pytest.raises(ConfigError) as caught:
            action(data(**settings))
        assert [problem.path for problem in caught.value.problems] == [path]


def test_files_are_read_once_while_they_stay_the_same(
    write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig.parse(write("cifar10-parquet").settings())
    before = config.identity()
    monkeypatch.setattr("hashlib.file_digest", None)
    assert config.identity() == before


def test_names_are_part_of_the_fingerprint(tmp_path: Any) -> None:
    for folder, swap in (("one", False), ("two", True)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("2" if swap else "1")
        (tmp_path / folder / "b").write_text("1" if swap else "2")
    one, two = (sorted((tmp_path / folder).iterdir()) for folder in ("one", "two"))
    assert files_fingerprint(one) != files_fingerprint(two)
    assert files_fingerprint(one) == files_fingerprint(reversed(one))
