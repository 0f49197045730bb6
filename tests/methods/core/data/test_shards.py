"""A set of files that says how many it is of is read whole or refused, whatever its ending."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.sources import resolve
from stillhouse.spaces.config.problems import ConfigError

CSV = b"text,label\na,0\nb,1\n"


def text(root: Path, train: str = "train*") -> Source:
    return resolve({"text": {"test": None, "train": train}}, root=str(root))[1]


def line(source: Source) -> str:
    with pytest.raises(ConfigError) as caught:
        source.files()
    (problem,) = caught.value.problems
    assert "\n" not in problem.message
    return problem.message


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"])
def test_missing_shards_are_named_whatever_their_ending(tmp_path: Path, ending: str) -> None:
    for number in (0, 1, 3):
        (tmp_path / f"train-{number:05d}-of-00005{ending}").write_bytes(b"x")
    message = line(text(tmp_path))
    missing = f"train-00002-of-00005{ending}, train-00004-of-00005{ending}"
    first = f"train-00000-of-00005{ending}"
    assert message == (
        f"{tmp_path} has 3 of the 5 files that {first} belongs to; missing: {missing}"
    )


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a-0-of-2.csv", "a-1-of-2.csv", "b-0-of-3.csv"], "1 of the 3 files that b-0-of-3.csv"),
        (["a-1-of-3.csv", "a-3-of-3.csv"], "missing: a-2-of-3.csv"),
        (["a-0-of-2.csv", "a-0-of-3.csv"], "belong to sets of different sizes"),
        (["a-0-of-1-x.csv", "a-0-of-1-y.csv"], "are the same shard of a set"),
        (["a-0-of-2-1f3.csv"], "missing: a-1-of-2*.csv"),
        (["a-0-of-99999999999.csv"], "and 99999999994 more"),
    ],
)
def test_what_is_wrong_with_a_set_of_shards(tmp_path: Path, names: list[str], told: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(CSV)
    assert told in line(text(tmp_path, "*.csv"))


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.csv", "train-00001-of-00002.csv"],
        ["train-1-of-2.csv", "train-2-of-2.csv"],
        ["train-00000-of-00001-a09b74b3.csv"],
        ["train-en-0-of-1.csv", "train-de-0-of-1.csv"],
        ["train.csv"],
        ["train-2-of-hearts.csv"],
    ],
)
def test_whole_sets_of_shards_are_read(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(CSV)
    assert len(text(tmp_path).labels("train")) == 2 * len(names)
