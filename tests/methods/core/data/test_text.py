"""Texts: files of every form, words of the training split alone, batches of word vectors."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stillhouse.methods.core.data.base.splits import SplitSpec
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import (
    cached_decoded_source,
    decoded_source,
    embedding_space,
    embedding_table,
    facts,
)
from stillhouse.methods.core.data.replaced_train_split import ReplacedTrainSplit
from stillhouse.methods.core.data.text.embedding_table import lookup
from stillhouse.methods.core.data.text.vocabulary import Vocabulary, words_in
from stillhouse.methods.core.data.text.word_vectors import learn_vectors, ppmi
from stillhouse.spaces.config.problems import ConfigError

GOOD = ["A good film, really good!", 'Don\'t miss\nthis "good, fine" one']
BAD = ["a bad film", "bad: so bad it's über-bad, é!"]
TEXTS = [*GOOD, *BAD] * 5
NAMES = ["pos", "pos", "neg", "neg"] * 5
ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def write(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".tsv":
                table = [[*columns], *zip(*columns.values(), strict=True)]
                lines = ["\t".join(map(str, row)) for row in table]
                file.write("".join(f"{line}\n" for line in lines))
                return
            table = csv.DictWriter(file, list(columns))
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def written(root: Path, ending: str = ".jsonl", labels: Any = NAMES) -> Path:
    write(root / f"train{ending}", label=list(labels), text=TEXTS)
    write(root / f"test{ending}", label=list(labels[:4]), text=TEXTS[:4])
    return root


def config(root: Path, settings: Any = (), **more: Any) -> DataConfig:
    told = {"length": 6, "embedding": {"dimensions": 4}, **dict(settings)}
    return DataConfig.parse({"source": {"text": told}, "root": str(root), **more})


def problem(action: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files.


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_form_of_file_holds_the_same(tmp_path: Path, ending: str) -> None:
    texts = TEXTS
    if ending == ".tsv":  # which has no way to write a line's end in a cell
        texts = [text.replace("\n", " ") for text in TEXTS]
    write(tmp_path / f"train{ending}", label=NAMES, text=texts)
    write(tmp_path / f"test{ending}", label=NAMES[:4], text=texts[:4])
    source = config(tmp_path).named_source()[1]
    assert source.texts("train") == texts
    assert source.info().class_names == ("neg", "pos")
    assert source.labels("train").tolist() == [1, 1, 0, 0] * 5
    assert source.labels("test").tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_labels_are_numbers_too(tmp_path: Path, ending: str) -> None:
    root = written(tmp_path, ending, [0, 2, 1, 0] * 5)
    assert config(root).named_source()[1].info().class_names == ("0", "1", "2")
    named = config(root, {"classes": ("a", "b", "c")}).named_source()[1]
    assert named.labels("test").tolist() == [0, 2, 1, 0]
    assert named.info().class_names == ("a", "b", "c")


def test_shards_follow_one_another_and_all_must_be_there(tmp_path: Path) -> None:
    written(tmp_path, ".parquet")
    (tmp_path / "train.parquet").rename(tmp_path / "train-00000-of-00002.parquet")
    assert "has 1 of the 2 files" in problem(config(tmp_path).named_source()[1].files)
    write(tmp_path / "train-00001-of-00002.parquet", label=["neg"], text=["last"])
    assert config(tmp_path).named_source()[1].texts("train") == [*TEXTS, "last"]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_a_missing_column_is_told_with_the_nearest(tmp_path: Path, ending: str) -> None:
    message = problem(lambda: facts(config(written(tmp_path, ending), {"label": "lable"})))
    path = tmp_path / f"train{ending}"
    wanted = f"{path}: unknown column 'lable'; did you mean 'label'? allowed: label, text (`label`)"
    assert message == f"root: {wanted}"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "train.csv",
            'label,text\n0,a\n1,"b\n',
            "line 3: unexpected end of data; a quote that opens",
        ),
        ("train.csv", 'label,text\n0,"a\nb"\n1,"b" c\n', "line 4: ',' expected after"),
        ("train.csv", "label,text\n0,a\n1\n", "line 3 has 1 cells, and the header has 2"),
        ("train.csv", "label,text\n0,a\n1,b,c\n", "line 3 has 3 cells, and the header has 2"),
        ("train.tsv", 'label\ttext\n0\t"a\n1\n', "line 3 has 1 cells, and the header has 2"),
        ("train.csv", b"label,text\n0,a\n1,caf\xe9\n", "line 3 is not UTF-8"),
        ("train.csv", "label,text,label\n0,a,1\n", "has 2 columns 'label'"),
        ("train.csv", "", "is damaged: it is empty"),
        ("train.jsonl", f'{{"label": {"9" * 5000}, "text": "a"}}\n', "line 1 is no JSON: Exceeds"),
        ("train.jsonl", "[" * 100_000 + "\n", "line 1 is nested too deep"),
        ("train.json", '[{"label": 0,\n"text": "a"}]', "line 1 is no JSON"),
        ("train.json", '[{"label": 0, "text": "a"}]', "each line must be one JSON object"),
        ("train.jsonl", '{"label": 0, "text": "a"}\n{"label": 1,\n', "line 2 is no JSON"),
        ("train.jsonl", '{"label": 0, "text": "a"}\n[]\n', "line 2 holds no {column: value}"),
        ("train.jsonl", '{"label": 0, "text": "a"}\n{"label": 1}\n', "line 2 holds nothing"),
        ("train.jsonl", '{"label": 0, "text": "a"}\n{"label": 1, "text": 5}\n', "line 2, column"),
        ("train.parquet", "PAR1 and no more", "is damaged"),
        ("train.xml", "<a/>", "must hold files train*"),
    ],
)
def test_broken_files_are_told_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert told in problem(lambda: facts(config(tmp_path, {"test": None}, validation=0.0)))


def test_a_test_label_that_training_lacks(tmp_path: Path) -> None:
    write(written(tmp_path) / "test.jsonl", label=["poss"], text=["x"])
    message = problem(lambda: facts(config(tmp_path)))
    assert "unknown label 'poss'; did you mean 'pos'?" in message


def test_two_kinds_of_files_are_not_mixed(tmp_path: Path) -> None:
    written(written(tmp_path, ".csv"), ".jsonl")
    message = problem(lambda: facts(config(tmp_path)))
    assert "of several kinds: .csv, .jsonl; name one, like `train: train*.csv`" in message
    assert facts(config(tmp_path, {"train": "train*.csv", "test": "test*.csv"})).classes == 2


def test_content_decides_the_identity_and_places_do_not(tmp_path: Path) -> None:
    first, other = written(tmp_path / "a"), written(tmp_path / "b")
    assert config(first).identity() == config(other).identity()
    assert config(first).identity() != config(first, {"vocabulary": 9}).identity()
    write(other / "test.jsonl", label=["neg"], text=["changed"])
    assert config(first).identity() != config(other).identity()


# Words.


def test_words_are_lower_cased_with_inner_apostrophes() -> None:
    assert list(words_in("Don't 'quote' ÜBER-x, 3rd!")) == ["don't", "quote", "über", "x", "3rd"]
    assert list(words_in("a b c", max_words=2)) == ["a", "b"]


def test_the_most_frequent_words_ties_by_the_alphabet() -> None:
    found = Vocabulary.from_texts(["b a c", "c b", "d"], 3)
    assert found.words == ("<pad>", "<unk>", "b", "c", "a")
    assert found.encode(["a d c b b", "c"], 4).tolist() == [[4, 1, 3, 2], [3, 0, 0, 0]]


def test_words_are_those_of_the_training_split_alone(tmp_path: Path) -> None:
    """Every text has a word of its own."""
    texts = [f"word{number} same" for number in range(40)]
    write(tmp_path / "train.csv", label=[0, 1] * 20, text=texts)
    write(tmp_path / "test.csv", label=[0, 1], text=["tested same", "same"])
    told = config(tmp_path, validation=0.25)
    rows = decoded_source(told).splits(SplitSpec(0.25, None, 0)).train
    known = set(embedding_table(told).vocabulary.words) - {"<pad>", "<unk>", "same"}
    assert known == {f"word{row}" for row in rows}
    assert len(known) == 30
    # A limit chooses labels; the space is that of all that may be looked at.
    fewer = config(tmp_path, validation=0.25, limit=10)
    assert embedding_table(fewer).vocabulary.words == embedding_table(told).vocabulary.words
    assert (
        embedding_space(fewer)
        == embedding_space(told)
        != embedding_space(config(tmp_path, validation=0.5))
    )


def test_a_word_may_be_any_text(tmp_path: Path) -> None:
    """Also a line's end: what is kept on the disk is what was found."""
    write(tmp_path / "train.csv", label=[0, 1] * 5, text=["a\nb", "a b"] * 5)
    told = config(tmp_path, {"test": None, "token": "[^a-z]+"}, validation=0.2)
    assert sorted(embedding_table(told).vocabulary.words) == ["\n", " ", "<pad>", "<unk>"]


def test_no_word_at_all(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", label=[0, 1], text=["!?", "..."])
    message = problem(lambda: facts(config(tmp_path, {"test": None}, validation=0.0)))
    assert "the vocabulary is empty: no training text holds a word" in message


@pytest.mark.parametrize(("token", "told"), [("(", "no regular expression"), ("x*", "must match")])
def test_an_expression_that_finds_no_words(tmp_path: Path, token: str, told: str) -> None:
    assert told in problem(lambda: config(tmp_path, {"token": token}))


# Vectors.


def test_ppmi_by_hand() -> None:
    """Texts `2 3 4` and `2 3`, one word apart: pairs 23, 32, 34, 43, 23, 32, six in all.

    P(2) = 2/6, P(3) = 3/6, P(4) = 1/6, P(2, 3) = 2/6, P(3, 4) = 1/6.
    """
    found = ppmi(np.array([[2, 3, 4], [2, 3, 0]], np.int32), 5, 1).toarray()
    expected = np.zeros((5, 5))
    expected[2, 3] = expected[3, 2] = np.log((2 / 6) / (2 / 6 * 3 / 6))
    expected[3, 4] = expected[4, 3] = np.log((1 / 6) / (3 / 6 * 1 / 6))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # Two apart, 2 and 4 meet as well: now eight pairs, and P(2) = P(3) = 3/8, P(4) = 2/8.
    wide = ppmi(np.array([[2, 3, 4], [2, 3, 0]], np.int32), 5, 2).toarray()
    assert wide[2, 4] == pytest.approx(np.log((1 / 8) / (3 / 8 * 2 / 8)))
    assert wide[2, 3] == pytest.approx(np.log((2 / 8) / (3 / 8 * 3 / 8)))


def test_vectors_are_the_singular_vectors_with_the_roots_of_their_values() -> None:
    """Both ways of solving, against the dense decomposition; the scale is a mean square of 1."""
    ids = np.random.default_rng(0).zipf(1.4, (400, 30)).clip(1, 600).astype(np.int32)
    for words, size in ((601, 8), (601, 601)):
        vectors = learn_vectors(ids, words, size, 2).astype(np.float64)
        information = ppmi(ids, words, 2).toarray()
        left, values, _ = np.linalg.svd(information)
        wanted = left[:, :size] * np.sqrt(values[:size])
        used = information.any(axis=1)
        wanted /= np.sqrt(np.square(wanted[used]).mean())
        # Equal up to the signs of columns, so compare what does not depend on them.
        np.testing.assert_allclose(np.abs(vectors[:, :8]), np.abs(wanted[:, :8]), atol=2e-4)
        assert np.square(vectors[used]).mean() == pytest.approx(1.0, abs=1e-3)
        assert not vectors[~used].any()
        assert (vectors.max(axis=0)[:8] >= -vectors.min(axis=0)[:8] - 1e-4).all()
        np.testing.assert_array_equal(
            learn_vectors(ids, words, size, 2), vectors.astype(np.float32)
        )


VECTORS = {"good": [1.0, 2.0, 3.0], "film": [0.0, -1.0, 1.0], "elsewhere": [9.0, 9.0, 9.0]}


def vector_file(path: Path, header: bool) -> Path:
    lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in VECTORS.items()]
    path.write_text("\n".join(([f"{len(VECTORS)} 3"] if header else []) + lines) + "\n")
    return path


@pytest.mark.parametrize("header", [False, True], ids=["glove", "word2vec"])
def test_vectors_of_a_file(tmp_path: Path, header: bool) -> None:
    vector_file(written(tmp_path) / "vectors.txt", header)
    told = config(tmp_path, {"embedding": {"path": "vectors.txt"}})
    assert facts(told).shape == (3, 6, 1)
    known = embedding_table(told)
    rows = dict(zip(known.vocabulary.words, known.vectors.tolist(), strict=True))
    assert rows["good"] == VECTORS["good"]
    assert rows["film"] == VECTORS["film"]
    assert rows["<pad>"] == [0.0, 0.0, 0.0]
    assert rows["bad"] == rows["<unk>"] == [0.5, 0.5, 2.0]  # the mean of the two


def test_the_file_of_vectors_is_in_the_identity(tmp_path: Path) -> None:
    path = vector_file(written(tmp_path) / "vectors.txt", False)
    told = config(tmp_path, {"embedding": {"path": str(path)}})
    before = told.identity()
    assert str(tmp_path) not in json.dumps(before)
    assert before != config(tmp_path).identity()
    path.write_text(path.read_text().replace("2.0", "2.5"))
    assert told.identity() != before
    assert (
        embedding_table(told).vectors[embedding_table(told).vocabulary.words.index("good"), 1]
        == 2.5
    )
    # Other words of the same file live in one space with these.
    assert embedding_space(told) == embedding_space(told.model_copy(update={"validation": 0.4}))


@pytest.mark.parametrize(
    ("content", "settings", "told"),
    [
        ("good 1 2\nfilm 1\n", {}, "line 2 has 1 numbers where others have 2"),
        ("good 1 2\nfilm 1 2 3\n", {}, "line 2 has 3 numbers where others have 2"),
        ("good 1 2\nfilm 1 x\n", {}, "line 2 is broken: could not convert string"),
        ("good 1 2\nfilm 1 nan\n", {}, "line 2 is broken: it holds a number that is not finite"),
        ("nowhere 1 2\n", {}, "holds none of the"),
        ("", {}, "line 1 needs a word and its numbers"),
        ("good 1 2\n", {"dimensions": 3}, "is 3, and"),
        (None, {}, "cannot be read"),
        ("version https://git-lfs.github.com/spec/v1\n", {}, "holds a Git LFS pointer"),
        ("\x1f\x8b\x08", {}, "compressed by gzip; unpack it"),
    ],
)
def test_broken_vectors_are_told_in_one_line(
    tmp_path: Path, content: str | None, settings: Any, told: str
) -> None:
    written(tmp_path)
    if content is not None:
        (tmp_path / "v.txt").write_text(content, encoding="latin-1")
    message = problem(lambda: facts(config(tmp_path, {"embedding": {"path": "v.txt", **settings}})))
    assert message.startswith("source.text.embedding.")
    assert told in message


# Batches.


@pytest.mark.parametrize("resident_mb", [0, 4096])
def test_batches_are_the_vectors_of_the_words(tmp_path: Path, resident_mb: int) -> None:
    told = config(written(tmp_path), resident_mb=resident_mb)
    data, known = open_data(told), embedding_table(told)
    assert data.shape == (4, 6, 1)
    assert (data.mean, data.std) == ((0.0,), (1.0,))
    batches = list(data.batches("test", batch_size=3, device="cpu"))
    images = torch.cat([batch.images for batch in batches])
    assert images.dtype == torch.float32
    for image, text in zip(images, TEXTS[:4], strict=True):
        words = list(words_in(text))[:6]
        rows = [
            known.vocabulary.words.index(w) if w in known.vocabulary.words else 1 for w in words
        ]
        rows += [0] * (6 - len(rows))
        assert torch.equal(image, known.vectors[rows].T[..., None])
    epoch = list(data.train_batches(batch_size=5, epoch=0, seed=3, device="cpu"))
    assert sorted(torch.cat([b.indices for b in epoch]).tolist()) == list(range(18))


def test_vectors_decode_to_their_words(tmp_path: Path) -> None:
    told = config(written(tmp_path), {"embedding": {"dimensions": 30}})
    known = embedding_table(told)
    ids = torch.tensor([[2, 5, 0], [3, 4, 2]])
    sentences = lookup(known.vectors, ids).permute(0, 3, 1, 2)
    assert sentences.shape == (2, 30, 3, 1)
    expected = [" ".join(known.vocabulary.words[i] for i in row) for row in ids.tolist()]
    assert known.nearest_words(sentences + 0.01) == expected


def test_made_sentences_train_as_they_are(tmp_path: Path) -> None:
    data = open_data(config(written(tmp_path)))
    sentences = torch.randn(6, 4, 6, 1)
    made = ReplacedTrainSplit(data, sentences, torch.arange(6) % 2, "made")
    (batch,) = made.train_batches(batch_size=6, epoch=0, seed=0, device="cpu")
    assert torch.equal(batch.images, sentences[batch.indices])
    (held,) = made.batches("test", batch_size=4, device="cpu")
    (own,) = data.batches("test", batch_size=4, device="cpu")
    assert torch.equal(held.images, own.images)


def test_noise_may_stand_in_for_texts(tmp_path: Path) -> None:
    data = open_data(config(written(tmp_path), augment={"noise": True}))
    batches = list(data.train_batches(batch_size=18, epoch=0, seed=0, device="cpu"))
    assert batches[0].images.shape == (18, 4, 6, 1)
    assert batches[0].images.std().item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    "settings",
    [
        {"resize": 8},
        {"normalise": {"mean": [0.0], "std": [1.0]}},
        {"augment": {"flip": True}},
        {"augment": {"crop": 2}},
        {"augment": {"cutout": 2}},
    ],
    ids=str,
)
def test_what_is_for_images_is_refused(tmp_path: Path, settings: Any) -> None:
    message = problem(lambda: facts(config(written(tmp_path), **settings)))
    assert message.endswith("is for images, and text holds texts; leave it out")
    assert message.split(":")[0].startswith(next(iter(settings)))


def test_images_have_no_words() -> None:
    message = problem(lambda: embedding_table(DataConfig.parse({"source": "digits"})))
    assert message == "source: digits holds images, and only texts have words"
    assert embedding_space(DataConfig.parse({"source": "digits"})) is None


def test_what_was_made_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = config(written(tmp_path))
    open_data(told)
    first = embedding_table(told)
    cached_decoded_source.cache_clear()
    monkeypatch.setattr(Vocabulary, "from_texts", None)
    monkeypatch.setattr(Vocabulary, "encode", None)
    again = embedding_table(told)
    assert again.vocabulary.words == first.vocabulary.words
    assert torch.equal(again.vectors, first.vectors)
    assert open_data(told).facts.sizes["train"] == 18
