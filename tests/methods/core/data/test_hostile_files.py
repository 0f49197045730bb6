"""Whatever lies where data should: an answer, or one line that names the file and the remedy."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.data.sources import resolve
from stillhouse.spaces.config.problems import ConfigError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
CSV = b"text,label\na,0\nb,1\n"
APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
ROOT_MAY_READ_ALL = pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")


def text(root: Path, **told: Any) -> Source:
    return resolve({"text": {"test": None, "length": 4, **told}}, root=str(root))[1]


def parquet(root: Path, **told: Any) -> Source:
    return resolve({"parquet": {"test": None, **told}}, root=str(root))[1]


def folder(root: Path, **told: Any) -> Source:
    return resolve({"image_folder": told}, root=str(root))[1]


def config(source: Source, name: str, **more: Any) -> DataConfig:
    told = {k: v for k, v in source.plain().items() if k not in ("root", "download")}
    return DataConfig.parse({"source": {name: told}, "root": source.root, **more})


def line(action: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    (problem,) = caught.value.problems
    assert problem.path == "root"
    assert "\n" not in problem.message
    return problem.message


def refusal(source: Source, name: str) -> str:
    return line(lambda: facts(config(source, name)))


def image(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 8), **told: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 100 if mode == "L" else (200, 10, 30)).save(path, **told)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images in each of two classes."""
    for name in "ab":
        for number in range(4):
            image(tmp_path / "train" / name / f"{number}.png")
    return tmp_path


# Another kind of file under the name.


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (CSV, "holds CSV; let its name end in .csv, and the source `text` reads it"),
        (CSV.replace(b",", b"\t"), "holds tab-separated text; let its name end in .tsv"),
        (b'{"text": "a", "label": 0}\n', "holds JSON; let its name end in .jsonl"),
        (LFS, "holds a Git LFS pointer; `git lfs pull` fetches the file itself"),
        (PAGE, "holds a web page (HTML or XML); the download went wrong, so fetch"),
        (gzip.compress(CSV, mtime=0), "holds data compressed by gzip; unpack it"),
        (APPLE, "(AppleDouble), not the file; delete it"),
        (b"", "is damaged: it is empty"),
        (b"PAR1 and no more", "is damaged: "),
    ],
)
@pytest.mark.parametrize(("make", "name"), [(text, "text"), (parquet, "parquet")])
def test_what_is_no_parquet_file_is_told_as_what_it_is(
    tmp_path: Path, content: bytes, told: str, make: Callable[..., Source], name: str
) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    message = refusal(make(tmp_path), name)
    assert message.startswith(str(tmp_path / "train.parquet"))
    assert told in message


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "holds Parquet; let its name end in .parquet"),
        (LFS, "holds a Git LFS pointer"),
        (PAGE, "holds a web page"),
        (gzip.compress(CSV, mtime=0), "holds data compressed by gzip"),
        (b"PK\x03\x04 and the rest", "holds a ZIP archive or a spreadsheet"),
        (CSV.decode().encode("utf-16"), "holds text in UTF-16; save it as UTF-8"),
    ],
)
def test_what_is_no_text_is_told_as_what_it_is(
    tmp_path: Path, ending: str, content: bytes | None, told: str
) -> None:
    path = tmp_path / f"train{ending}"
    if content is None:
        pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), path)
    else:
        path.write_bytes(content)
    message = refusal(text(tmp_path), "text")
    assert message.startswith(f"{path} is no text file: it {told}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (LFS, "is no image file: it holds a Git LFS pointer"),
        (PAGE, "is no image file: it holds a web page"),
        (CSV, "is no image file: it holds CSV"),
        (b"", "is damaged: it is empty"),
        (b"\x89PNG\r\n\x1a\n and no more", "is damaged: "),
    ],
)
def test_what_is_no_image_is_told_as_what_it_is(images: Path, content: bytes, told: str) -> None:
    path = images / "train" / "b" / "2.png"
    path.write_bytes(content)
    message = line(lambda: list(folder(images, mode="RGB").image_chunks("train")))
    assert message.startswith(f"{path} {told}")


def test_an_image_of_a_row_is_told_as_what_it_is(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([LFS] * 2, pa.binary()), "label": [0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    message = refusal(parquet(tmp_path), "parquet")
    assert "train.parquet row 0 is no image file: it holds a Git LFS pointer" in message


@pytest.mark.parametrize("content", [LFS, PAGE, gzip.compress(b"0", mtime=0)])
def test_a_published_file_is_told_as_what_it_is(write: Callable[..., Any], content: bytes) -> None:
    written = write("mnist-idx")
    path = written.root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(content)
    source = resolve("mnist", root=str(written.root))[1]
    assert f"{path} is no file of its format: it holds" in line(lambda: source.read_all("train"))


# What is no file.


@pytest.mark.parametrize(("make", "name"), [(text, "text"), (parquet, "parquet")])
def test_a_folder_called_like_a_file(
    tmp_path: Path, make: Callable[..., Source], name: str
) -> None:
    path = tmp_path / "train.parquet"
    path.mkdir()
    told = "is a folder, not a file; name the files in it, like train.parquet/*.parquet"
    assert refusal(make(tmp_path), name) == f"{path} {told}"


def test_the_files_in_such_a_folder_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").mkdir()
    (tmp_path / "train.csv" / "part-00000.csv").write_bytes(CSV)
    (tmp_path / "train.csv" / "._part-00000.csv").write_bytes(APPLE)
    assert len(text(tmp_path, train="train.csv/*.csv").labels("train")) == 2


@pytest.mark.parametrize(("make", "name"), [(text, "text"), (parquet, "parquet")])
def test_links_to_nowhere_and_pipes(tmp_path: Path, make: Callable[..., Source], name: str) -> None:
    path = tmp_path / "train.parquet"
    path.symlink_to("/nowhere/x.parquet")
    message = refusal(make(tmp_path, train="*.parquet"), name)
    assert message.startswith(f"{path} is a broken link to /nowhere/x.parquet; ")
    path.unlink()
    os.mkfifo(path)
    assert refusal(make(tmp_path), name) == f"{path} is a pipe or a device, not a file"


@ROOT_MAY_READ_ALL
def test_a_file_without_rights(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(CSV)
    path.chmod(0)
    told = "cannot be read: permission denied; allow this user to read it"
    assert refusal(text(tmp_path), "text") == f"{path} {told}"


def test_a_file_that_the_system_does_not_give(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, where the tests run as a user who may read everything."""
    monkeypatch.setattr("stillhouse.methods.core.data.base.file_kinds.os.access", lambda *_: False)
    told = f"{images / 'train' / 'a' / '0.png'} cannot be read: permission denied"
    assert refusal(folder(images), "image_folder").startswith(told)


@pytest.mark.parametrize("pattern", ["/etc/*.csv", "", "**.csv"])
def test_what_is_no_pattern_below_root(tmp_path: Path, pattern: str) -> None:
    message = refusal(text(tmp_path, train=pattern), "text")
    assert "must be a pattern of files below" in message or "must hold files" in message


# Folders of images.


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "__MACOSX", "lost+found", "@eaDir"])
def test_hidden_folders_are_no_classes(images: Path, name: str) -> None:
    known = facts(config(folder(images), "image_folder"))
    image(images / "train" / name / "x.png")
    image(images / "train" / "a" / name / "x.png")
    image(images / "test" / name / "x.png")
    image(images / "test" / "a" / "x.png")
    now = facts(config(folder(images), "image_folder"))
    assert now.class_names == known.class_names == ("a", "b")
    assert now.sizes == {**known.sizes, "test": 1}


def test_a_link_to_nowhere_is_told(images: Path) -> None:
    for path in (images / "train" / "a" / "x.png", images / "train" / "c"):
        path.symlink_to("/nowhere")
        message = refusal(folder(images), "image_folder")
        assert message.startswith(f"{path} is a broken link to /nowhere; ")
        path.unlink()


def test_a_link_to_itself_is_told(images: Path) -> None:
    loop = images / "train" / "a" / "loop"
    loop.symlink_to(images / "train" / "a")
    told = f"{loop} leads to {images / 'train' / 'a'} again, so that its images would count twice"
    assert refusal(folder(images), "image_folder").startswith(told)
    loop.unlink()
    loop.symlink_to("loop")
    assert refusal(folder(images), "image_folder").startswith(f"{loop} is a broken link")


def test_links_to_other_folders_are_followed(images: Path) -> None:
    before = facts(config(folder(images), "image_folder")).sizes
    (images / "train" / "c").symlink_to(images / "train" / "a")
    after = facts(config(folder(images), "image_folder"))
    assert after.class_names == ("a", "b", "c")
    assert sum(after.sizes.values()) == sum(before.values()) + 4


def test_files_that_are_left_out_are_told(images: Path) -> None:
    assert facts(config(folder(images), "image_folder")).notes == ()
    Image.new("RGB", (8, 8)).save(images / "train" / "a" / "x.gif")
    (images / "train" / "b" / "notes.txt").write_text("x")
    (images / "train" / "b" / "._1.png").write_bytes(APPLE)
    (images / "train" / "b" / ".DS_Store").write_bytes(b"x")
    image(images / "train" / "beside.png")
    known = facts(config(folder(images), "image_folder"))
    (note,) = known.notes
    assert note.startswith("4 files are left out, 1 .gif, 1 .txt, 1 hidden, 1 in no class: ")
    assert str(images / "train" / "beside.png") in note
    assert known.sizes["train"] + known.sizes["validation"] == 8
    assert "notes" not in known.plain()


def test_a_class_without_images_is_told_with_what_it_has(images: Path) -> None:
    (images / "train" / "c").mkdir()
    Image.new("RGB", (8, 8)).save(images / "train" / "c" / "x.gif")
    message = refusal(folder(images), "image_folder")
    assert message.startswith(f"there are no images in {images / 'train' / 'c'}; 1 files are left")


def test_a_set_of_one_class_is_refused(images: Path) -> None:
    for path in (images / "train" / "b").iterdir():
        path.unlink()
    (images / "train" / "b").rmdir()
    told = "all 4 training examples are of one class, 'a'; a classifier needs examples of two"
    assert told in refusal(folder(images), "image_folder")


# Whatever else.

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
MANY = settings(FEW, max_examples=5_000, derandomize=False)
cells = st.sampled_from(["a", "0", "", '"', "\t", ",", "\n", "\r", "é", "\x00", "[", "{", "1e999"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
rows = st.dictionaries(
    st.sampled_from(["text", "label", "x"]), scalars | st.lists(scalars, max_size=2)
)
contents = st.one_of(
    st.binary(max_size=80),
    st.lists(cells, max_size=20).map(lambda found: "".join(found).encode()),
    st.lists(cells, max_size=20).map(lambda found: ("text,label\na,0\n" + "".join(found)).encode()),
    st.lists(rows, max_size=4).map(lambda found: "\n".join(map(json.dumps, found)).encode()),
    st.sampled_from([LFS, PAGE, CSV, APPLE]),
)


def outcome(action: Callable[[], Any]) -> Any:
    """What came of it; any other error than a mistake of the user's is one of ours."""
    try:
        return action()
    except ConfigError as mistake:
        return str(mistake)


def reads(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"train{ending}"
    path.write_bytes(content)
    found = outcome(lambda: facts(config(text(tmp_path), "text", validation=0.0)))
    path.unlink()
    assert "\n" not in found if isinstance(found, str) else found.classes >= 2


@FEW
@given(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]), contents)
def test_any_bytes_are_a_set_of_texts_or_a_mistake(
    tmp_path: Path, ending: str, content: bytes
) -> None:
    reads(tmp_path, ending, content)


@pytest.mark.slow
@MANY
@given(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]), contents)
def test_thousands_of_sets_of_texts(tmp_path: Path, ending: str, content: bytes) -> None:
    reads(tmp_path, ending, content)


@FEW
@given(st.data())
def test_a_picture_with_changed_bytes_is_a_picture_or_a_mistake(
    tmp_path: Path, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["png", "jpg", "webp", "tiff", "bmp", "ppm"]))
    exif = Image.Exif()
    exif[0x0112] = data.draw(st.integers(0, 9))
    source = folder(tmp_path, size=4)
    path = image(tmp_path / "train" / "a" / f"0.{kind}", exif=exif)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found = outcome(lambda: next(source.image_chunks("train")))
    path.unlink()
    if isinstance(found, str):
        assert str(path) in found
        assert "\n" not in found
    else:
        assert found.shape[0] == 1
        assert found.dtype == np.uint8
