"""The training part, or `classes`, decides what a label means, and no two labels become one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.data.formats.hub_metadata import class_names
from stillhouse.methods.core.data.formats.labels import ClassIndex, label_error
from stillhouse.spaces.config.problems import ConfigError

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


def write(path: Path, labels: list[Any]) -> None:
    texts = [f"word{number} of {label}" for number, label in enumerate(labels)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    elif path.suffix == ".jsonl":
        rows = zip(texts, labels, strict=True)
        path.write_text("".join(f"{json.dumps({'text': t, 'label': n})}\n" for t, n in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        rows = zip(["text", *texts], ["label", *map(str, labels)], strict=True)
        path.write_text("".join(f"{mark.join(row)}\n" for row in rows))


def config(root: Path, **settings: Any) -> DataConfig:
    told = {"length": 4, "embedding": {"dimensions": 3}, **settings}
    return DataConfig.parse({"source": {"text": told}, "root": str(root), "validation": 0.0})


def read(root: Path, **settings: Any) -> tuple[tuple[str, ...], list[int], list[int]]:
    """Class names, training labels and test labels."""
    source = config(root, **settings).named_source()[1]
    return (
        source.info().class_names,
        source.labels("train").tolist(),
        source.labels("test").tolist(),
    )


def refusal(root: Path, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        open_data(config(root, **settings))
    (problem,) = caught.value.problems
    assert "\n" not in problem.message
    return problem.message


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_name_among_numbers_makes_them_all_names_in_every_part(
    tmp_path: Path, ending: str
) -> None:
    """Read by itself the test part looks like numbers, and 1 would be another class there."""
    write(tmp_path / f"train{ending}", ["1", "2", "other", "1", "2"])
    write(tmp_path / f"test{ending}", ["1", "2", "2"])
    assert read(tmp_path) == (("1", "2", "other"), [0, 1, 2, 0, 1], [0, 1, 1])


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_classes_decide_for_all_parts(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"train{ending}", ["1", "2", "other"])
    write(tmp_path / f"test{ending}", ["2", "1"])
    assert read(tmp_path, classes=("other", "2", "1")) == (("other", "2", "1"), [2, 1, 0], [1, 2])


def test_a_label_that_is_the_name_of_a_class_is_that_class(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [1, 2, 3, 4])
    write(tmp_path / "test.csv", [4])
    names = ("1", "2", "3", "4")
    assert read(tmp_path, classes=names) == (names, [0, 1, 2, 3], [3])
    assert read(tmp_path) == (names, [0, 1, 2, 3], [3])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1, 2], ("0", "1", "2")),
        ([4, 0, 4], ("0", "4")),
        ([1, -1], ("-1", "1")),
        ([10, 9, 1], ("1", "9", "10")),
        ([0, 10**12], ("0", str(10**12))),
    ],
)
def test_every_number_that_occurs_is_a_class(
    tmp_path: Path, ending: str, labels: list[int], names: tuple[str, ...]
) -> None:
    write(tmp_path / f"train{ending}", labels)
    found = read(tmp_path, test=None)
    assert found == (names, [names.index(str(label)) for label in labels], [])


@pytest.mark.parametrize("twin", ["1_1", "01", " 1", "+1", "\u0661", "1.0", "-0"])
def test_what_only_resembles_a_number_is_a_class_of_its_own(tmp_path: Path, twin: str) -> None:
    labels = ["1", "11", "0", twin]
    write(tmp_path / "train.csv", labels)
    names, train, _ = read(tmp_path, test=None)
    assert names == tuple(sorted(labels))
    assert [names[label] for label in train] == labels


@given(st.lists(st.one_of(st.integers(-20, 20), st.text("01-+_ a", min_size=1)), min_size=1))
def test_distinct_labels_are_distinct_classes_and_none_is_empty(labels: list[Any]) -> None:
    classes = ClassIndex.from_labels(labels)
    assert set(classes.names) == {str(label) for label in labels}
    assert [classes.names[number] for number in classes.to_indices(labels)] == list(
        map(str, labels)
    )


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([[0], [1], [0, 1]], "line 1, column 'label': needs one label, a whole number or a name, "),
        ([0, 1, {"a": 0}], "line 3, column 'label': needs one label, a whole number or a name, "),
        (["a", "b", ""], "line 3, column 'label': the label is empty; give the example a label"),
        (["a", "b", "  "], "line 3, column 'label': the label is empty"),
        (["a", None], "line 2 holds nothing in column 'label'"),
        ([0, float("nan")], "line 2 holds nothing in column 'label'"),
        ([0, float("inf")], "line 2, column 'label': needs one label"),
        (["a", "\ud800"], "line 2, column 'label': the label '\\ud800' is no valid Unicode text"),
        (["a", "a"], "all 2 training examples are of one class, 'a'; a classifier needs"),
        ([3, 3], "all 2 training examples are of one class, '3'"),
    ],
)
def test_what_is_no_label_is_refused_with_its_line(
    tmp_path: Path, labels: list[Any], told: str
) -> None:
    write(tmp_path / "train.jsonl", labels)
    message = refusal(tmp_path, test=None)
    assert str(tmp_path) in message
    assert told in message


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_an_empty_cell_is_no_class(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"train{ending}", ["pos", "neg", ""])
    told = f"train{ending} line 4, column 'label': the label is empty"
    assert told in refusal(tmp_path, test=None)


def test_gaps_of_parquet_are_told_with_their_row(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0.0, 1.0, float("nan")])
    assert "train.parquet row 3 holds nothing" in refusal(tmp_path, test=None)
    write(tmp_path / "train.parquet", [[0], [1]])
    assert "train.parquet row 1, column 'label': needs one label" in refusal(tmp_path, test=None)


def test_a_label_that_is_no_class_is_refused_with_the_remedies(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [0, 4])
    write(tmp_path / "test.csv", [0, 2, 4])
    message = refusal(tmp_path)
    assert "the test files under" in message
    assert "unknown label '2'; allowed: 0, 4" in message
    assert "`classes` names all classes" in message
    assert "`test: null`" in message
    message = refusal(tmp_path, classes=("a", "b"))
    assert "label '4' is neither one of the 2 class names nor a number from 0 to 1" in message
    assert "leave `classes` out" in message
    names = ("0", "1", "2", "3", "4")
    assert read(tmp_path, classes=names) == (names, [0, 4], [0, 2, 4])


@pytest.mark.parametrize("names", [[], ["a"], ["a", "a"]])
def test_class_names_are_two_or_more_each_once(tmp_path: Path, names: list[str]) -> None:
    for source in ("text", "parquet"):
        with pytest.raises(ConfigError, match="two class names or more, each once"):
            DataConfig.parse({"source": {source: {"classes": names}}, "root": str(tmp_path)})


@pytest.mark.parametrize("label", [0, -5, 10**30, True, 0.5, "a", "a b", "é"])
def test_numbers_and_names_are_labels(label: Any) -> None:
    assert label_error(label) is None


@pytest.mark.parametrize(
    ("train", "test", "classes", "version"),
    [
        ([0, 1, 2], [2, 1], None, 1),
        (["b", "a"], ["a"], None, 1),
        (["b", "a", 1], ["a", 1], None, 1),
        ([1, 2, "x"], [1, 2], None, 2),
        ([1, 2, "x"], ["x", 2], None, 1),
        ([0, 2], [2], None, 2),
        ([1, 2], [2], None, 2),
        (["1_1", "11"], ["11"], None, 2),
        (["01", "1"], ["1"], None, 2),
        ([0, 1], [1], ("a", "b"), 1),
        ([0, 1], [1], ("1", "0"), 2),
        (["a", "b"], ["b"], ("b", "a"), 1),
    ],
)
def test_stages_on_labels_that_are_read_as_ever_keep_their_keys(
    tmp_path: Path, train: list[Any], test: list[Any], classes: Any, version: int
) -> None:
    write(tmp_path / "train.csv", train)
    write(tmp_path / "test.csv", test)
    told = {} if classes is None else {"classes": classes}
    identity = config(tmp_path, **told).identity()["source"]["text"]
    assert identity["version"] == version


def test_only_quotes_change_the_keys_of_stages_on_tsv(tmp_path: Path) -> None:
    for text, version in (("a", 1), ('"a"', 2)):
        (tmp_path / "train.tsv").write_text(f"text\tlabel\n{text}\t0\nb\t1\n")
        identity = config(tmp_path, test=None).identity()["source"]["text"]
        assert identity["version"] == version


# Quotes.


def test_quotes_mean_nothing_in_a_tab_separated_file(tmp_path: Path) -> None:
    rows = ['"Hello there\t0', "another\t1", 'he said "no"\t0', '"whole"\t1', 'end"\t0']
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\r\n")
    source = config(tmp_path, test=None).named_source()[1]
    assert source.labels("train").tolist() == [0, 1, 0, 1, 0]
    texts = ['"Hello there', "another", 'he said "no"', '"whole"', 'end"']
    assert getattr(source, "texts")("train") == texts  # noqa: B009
    for row, line in (("one cell", 7), ("three\tcells\t0", 7)):
        broken = "\n".join(["text\tlabel", *rows, row])
        (tmp_path / "train.tsv").write_text(broken)
        cells = row.count("\t") + 1
        told = f"line {line} has {cells} cells, and the header has 2"
        assert told in refusal(tmp_path, test=None)


def test_quotes_hold_a_cell_together_in_csv(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,label\n"a, ""b""\nc",0\nd,1\n')
    source = config(tmp_path, test=None).named_source()[1]
    assert getattr(source, "texts")("train") == ['a, "b"\nc', "d"]  # noqa: B009


# Names in the metadata of Parquet files.


def hub(told: Any) -> bytes:
    return json.dumps({"info": {"features": {"label": told}}}).encode()


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        (hub({"names": ["cat", "dog"]}), ("cat", "dog")),
        (hub({"names": {"1": "dog", "0": "cat"}}), ("cat", "dog")),
        (hub({"names": {str(n): f"c{n}" for n in range(11)}}), tuple(f"c{n}" for n in range(11))),
        (hub({"names": {"0": "cat", "2": "dog"}}), None),
        (hub({"names": {"a": "cat", "b": "dog"}}), None),
        (hub({"names": {"0": "cat", "1": None}}), None),
        (hub({"names": "cat"}), None),
        (hub({"names": 2}), None),
        (hub({"names": [1, None]}), None),
        (hub({"names": []}), None),
        (hub([{"dtype": "int64"}]), None),
        (hub(None), None),
        (b'{"info": {"features": [{"name": "label"}]}}', None),
        (b'{"info": null}', None),
        (b"[]", None),
        (b"{oops", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
    ],
)
def test_class_names_of_a_hub(metadata: bytes, names: tuple[str, ...] | None) -> None:
    assert class_names(metadata, "label") == names


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["info", "features", "label", "names", "0", "1"]), inner, max_size=3
            )
        ),
    )
)
def test_whatever_the_metadata_holds_there_are_names_or_none(told: Any) -> None:
    found = class_names(json.dumps(told).encode(), "label")
    assert found is None or all(isinstance(name, str) for name in found)


def test_facts_of_a_set_whose_labels_have_gaps_name_those_there_are(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [0, 4] * 3)
    known = facts(config(tmp_path, test=None))
    assert known.classes == 2
    assert known.class_names == ("0", "4")
