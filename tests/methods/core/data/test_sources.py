"""Every source reads what was written, and says in one line what is wrong with what was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stillhouse.methods.core.data.base.source import Part, Source
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.data.sources import SOURCES, resolve
from stillhouse.methods.core.data.text.text_source import TextSource
from stillhouse.spaces.config.problems import ConfigError

PARTS: tuple[Part, ...] = ("train", "test")
PUBLISHED = ("cifar10", "cifar100", "fashion_mnist", "mnist")


def source_of(written: Any) -> Source:
    return DataConfig.parse(written.settings()).named_source()[1]


def problem(action: Callable[[], object]) -> str:
    """The one line that ``action`` is refused with."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert len(caught.value.problems) == 1
    message = str(caught.value)
    assert "\n" not in message
    return message


# What every source must do.


def test_every_source_in_the_folder_is_tried(forms: tuple[str, ...]) -> None:
    texts = {name for name in SOURCES.names() if issubclass(SOURCES.load(name), TextSource)}
    assert texts == {"text"}  # tried in test_text.py
    assert {form.split("-")[0] for form in forms} == set(SOURCES.names()) - texts


def test_images_and_labels_are_those_in_the_files(written: Any) -> None:
    source = source_of(written)
    for part in ("train", "test"):
        images, labels = source.read_all(part)
        expected = getattr(written, part)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
        np.testing.assert_array_equal(source.labels(part), expected[1])


def test_facts_are_those_of_the_images(written: Any) -> None:
    source = source_of(written)
    known = source.info()
    images, labels = source.read_all("train")
    assert known.shape == images.shape[1:]
    assert labels.max() < len(known.class_names)
    assert len(set(known.class_names)) == len(known.class_names)
    if known.mean is not None:
        assert known.std is not None
        assert len(known.mean) == len(known.std) == known.shape[0]


def test_files_are_there_and_decide_the_fingerprint(written: Any) -> None:
    source = source_of(written)
    assert all(path.is_file() for path in source.files())
    before = source.fingerprint()
    assert before == source.fingerprint()
    for path in source.files():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert source.fingerprint() != before
        content[-1] ^= 1
        path.write_bytes(content)
    assert source.fingerprint() == before


def test_moving_the_files_changes_nothing(written: Any, tmp_path: Path) -> None:
    before = DataConfig.parse(written.settings()).identity()
    if written.root.exists():
        written.root.rename(tmp_path / "elsewhere")
    after = DataConfig.parse(written.settings(root=str(tmp_path / "elsewhere"))).identity()
    assert before == after


def test_settings_survive_being_written_down(written: Any) -> None:
    source = source_of(written)
    assert type(source).parse(source.plain()) == source
    assert type(source).__doc__
    assert all(field.description for field in type(source).model_fields.values())


# Sets that everybody knows.


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_files_are_named_in_both_forms(name: str, tmp_path: Path) -> None:
    _, source = resolve(name, root=str(tmp_path))
    message = problem(source.files)
    assert message.startswith(f"root: {tmp_path} must hold ")
    assert "train-*.parquet and test-*.parquet" in message
    assert f"in {name}/" in message
    assert "`download: true` fetches the former" in message
    official = "raw/{train-images-idx3-ubyte" if "mnist" in name else "cifar-10"
    assert official in message


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_root_is_said(name: str) -> None:
    _, source = resolve(name)
    assert problem(source.files).startswith("root: is not set; it must hold ")


def test_a_training_file_alone_is_not_enough(write: Callable[..., Any]) -> None:
    written = write("cifar10-parquet")
    (written.root / "cifar10" / "test-00000-of-00001.parquet").unlink()
    assert "must hold" in problem(source_of(written).files)


def test_a_missing_shard_is_noticed(write: Callable[..., Any]) -> None:
    written = write("cifar10-parquet")
    (written.root / "cifar10" / "train-00001-of-00002.parquet").unlink()
    assert "has 1 of the 2 files" in problem(source_of(written).files)


def test_parquet_files_may_lie_in_root_itself(write: Callable[..., Any]) -> None:
    written = write("cifar10-parquet")
    _, source = resolve("cifar10", root=str(written.root / "cifar10"))
    np.testing.assert_array_equal(source.read_all("test")[0], written.test[0])
    assert source.fingerprint() == source_of(written).fingerprint()


def test_cifar100_has_the_fine_classes(write: Callable[..., Any]) -> None:
    names = source_of(write("cifar100-parquet")).info().class_names
    assert len(names) == 100
    assert list(names) == sorted(names)


@pytest.mark.parametrize("kind", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 3, 50])
def test_a_damaged_idx_file_is_named(write: Callable[..., Any], kind: str, keep: int) -> None:
    written = write("mnist-idx")
    path = written.root / "MNIST" / "raw" / kind
    path.write_bytes(path.read_bytes()[:keep] if keep < 20 else b"\x07" * keep)
    source = source_of(written)
    part = "train" if kind.startswith("train") else "test"
    message = problem(lambda: source.read_all(part))
    assert f"{path} is damaged" in message


def test_a_damaged_batch_is_named_and_never_unpickled(write: Callable[..., Any]) -> None:
    written = write("cifar10-pickled")
    path = written.root / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    message = problem(lambda: source_of(written).labels("train"))
    assert f"{path} is damaged: its MD5 is not the published one" in message


def test_images_of_another_size_are_refused(write: Callable[..., Any], tmp_path: Path) -> None:
    written = write("parquet-struct")
    for name, part in (("train", "train"), ("held-out", "test")):
        table = pq.read_table(written.root / "some" / f"{name}.parquet")
        pq.write_table(table.rename_columns(["image", "label"]), tmp_path / f"{part}.parquet")
    config = DataConfig.parse({"source": "cifar10", "root": str(tmp_path)})
    message = problem(lambda: open_data(config))
    assert message.startswith(f"root: Cifar10 in {tmp_path}: the train images need [32, 32, 3], ")


# Parquet files of any kind.


@pytest.mark.parametrize("form", ["parquet-struct", "cifar10-parquet"])
def test_a_damaged_parquet_file_is_named(write: Callable[..., Any], form: str) -> None:
    written = write(form)
    source = source_of(written)
    path = source.files()[-1]
    path.write_bytes(path.read_bytes()[:-40])
    assert f"{path} is damaged" in problem(lambda: source.labels("test"))
    assert f"{path} is damaged" in problem(lambda: source.read_all("test"))


def test_a_broken_image_is_named_with_its_row(write: Callable[..., Any]) -> None:
    written = write("parquet-struct")
    path = written.root / "some" / "train.parquet"
    table = pq.read_table(path).to_pydict()
    table["picture"][17]["bytes"] = table["picture"][17]["bytes"][:60]
    pq.write_table(pa.table(table), path)
    message = problem(lambda: list(source_of(written).image_chunks("train")))
    assert f"{path} row 17 is damaged" in message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"label": "z"}, "unknown column 'z'; allowed: picture, y"),
        ({"label": "picture"}, "needs whole numbers"),
        ({"image": "photo"}, "unknown column 'photo'; allowed: picture, y"),
        ({"train": "no/*.parquet"}, "must hold Parquet files no/*.parquet"),
        ({"image": "y"}, "row 0 holds no bytes in column 'y'"),
    ],
)
def test_wrong_columns_and_patterns_are_named(
    write: Callable[..., Any], settings: dict[str, str], expected: str
) -> None:
    written = write("parquet-struct")
    written.source["parquet"].update(settings)
    source = source_of(written)
    message = problem(lambda: source.read_all("train"))
    assert expected in message
    assert message.count("root: ") == 1


@pytest.mark.parametrize(
    ("labels", "names"), [([0, 4], ("0", "4")), ([-1, 1], ("-1", "1")), ([7, 10**12], None)]
)
def test_labels_with_gaps_are_the_classes_there_are(
    write: Callable[..., Any], labels: list[int], names: tuple[str, ...] | None
) -> None:
    written = write("parquet-struct")
    path = written.root / "some" / "train.parquet"
    table = pq.read_table(path)
    column = pa.array([labels[number % 2] for number in range(len(table))])
    pq.write_table(table.set_column(1, "y", column), path)
    written.source["parquet"]["test"] = None
    source = source_of(written)
    assert source.info().class_names == (names or tuple(map(str, labels)))
    assert source.labels("train").tolist() == [number % 2 for number in range(len(table))]
    # A number that is too large for a label is refused, not read as another.
    pq.write_table(table.set_column(1, "y", pa.array([2**63 + 1] * len(table), pa.uint64())), path)
    assert "9223372036854775809 not in range" in problem(lambda: source_of(written).labels("train"))


def test_two_columns_of_bytes_need_a_name(write: Callable[..., Any]) -> None:
    written = write("parquet-bytes-grey")
    path = written.root / "some" / "train.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("mask", table["picture"]), path)
    assert "unless `image` names it: picture, mask" in problem(source_of(written).info)
    written.source["parquet"]["image"] = "picture"
    np.testing.assert_array_equal(source_of(written).read_all("train")[0], written.train[0])


def test_class_names_come_from_the_settings_or_the_hub_or_the_labels(
    write: Callable[..., Any],
) -> None:
    written = write("parquet-struct")
    assert source_of(written).info().class_names == ("0", "1", "2", "3")
    path = written.root / "some" / "train.parquet"
    info = b'{"info": {"features": {"y": {"names": ["e", "f", "g", "h"], "_type": "ClassLabel"}}}}'
    table = pq.read_table(path).replace_schema_metadata({"huggingface": info})
    pq.write_table(table, path)
    assert source_of(written).info().class_names == ("e", "f", "g", "h")
    written.source["parquet"]["classes"] = ["i", "j", "k", "l"]
    assert source_of(written).info().class_names == ("i", "j", "k", "l")


def test_a_set_without_test_split_is_possible(write: Callable[..., Any]) -> None:
    written = write("parquet-struct")
    written.source["parquet"]["test"] = None
    assert len(source_of(written).labels("test")) == 0
    assert facts(DataConfig.parse(written.settings())).sizes["test"] == 0


def test_a_label_without_a_class_is_refused(write: Callable[..., Any]) -> None:
    written = write("parquet-struct")
    written.source["parquet"]["classes"] = ["only", "three", "names"]
    config = DataConfig.parse(written.settings())
    told = "label '3' is neither one of the 3 class names nor a number from 0 to 2"
    assert told in problem(lambda: facts(config))


# Folders of images.


def test_class_names_are_the_folders(write: Callable[..., Any]) -> None:
    assert source_of(write("image_folder")).info().class_names == ("a", "b", "c")


def test_images_of_many_sizes_need_a_size(write: Callable[..., Any]) -> None:
    written = write("image_folder")
    Image.new("RGB", (20, 30), (200, 10, 10)).save(written.root / "train" / "c" / "large.png")
    source = source_of(written)
    message = problem(lambda: source.read_all("train"))
    assert "large.png is 20x30 pixels where others are 14x10; `size`" in message
    _, sized = resolve({"image_folder": {"size": 6}}, root=str(written.root))
    images, _ = sized.read_all("train")
    assert images.shape == (49, 3, 6, 6)
    assert sized.info().shape == (3, 6, 6)
    assert (images[-1] == np.array([200, 10, 10], np.uint8)[:, None, None]).all()


def test_grey_and_colour_are_brought_to_one_mode(write: Callable[..., Any]) -> None:
    written = write("image_folder")
    Image.new("L", (14, 10), 77).save(written.root / "train" / "c" / "zz.png")
    assert (source_of(written).read_all("train")[0][-1] == 77).all()
    _, grey = resolve({"image_folder": {"mode": "L"}}, root=str(written.root))
    assert grey.read_all("test")[0].shape == (24, 1, 10, 14)


def test_sixteen_bits_are_refused_rather_than_cut(write: Callable[..., Any]) -> None:
    written = write("image_folder")
    Image.new("I;16", (14, 10), 40_000).save(written.root / "train" / "c" / "zz.png")
    source = source_of(written)
    assert "zz.png has pixels of mode I;16, not of 8 bits" in problem(
        lambda: source.read_all("train")
    )


def test_a_broken_picture_is_named(write: Callable[..., Any]) -> None:
    written = write("image_folder")
    path = source_of(written).files()[30]
    path.write_bytes(path.read_bytes()[:70])
    source = source_of(written)
    assert f"{path} is damaged" in problem(lambda: source.read_all("train"))


def test_folder_mistakes_are_named(write: Callable[..., Any], tmp_path: Path) -> None:
    _, missing = resolve("image_folder", root=str(tmp_path))
    assert f"{tmp_path} must hold train/<class>/" in problem(missing.files)
    written = write("image_folder")
    (written.root / "test" / "d").mkdir()
    source = source_of(written)
    assert "has a class 'd' that is not in train/" in problem(source.files)
    (written.root / "train" / "d").mkdir()
    assert "d" in problem(source.files)


def test_large_folders_are_known_by_names_and_sizes(
    write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(write("image_folder"))
    monkeypatch.setattr(type(source), "names_only_above", 1000)
    before = source.fingerprint()
    path = source.files()[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert source.fingerprint() == before
    path.write_bytes(content + b"0")
    assert source.fingerprint() != before


# What an experiment may write.


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("cifar1", "source: unknown data source 'cifar1'; did you mean 'cifar10'?"),
        ({"a": {}, "b": {}}, "source: needs a name or {name: {settings}}"),
        ({"parquet": {"labell": "y"}}, "source.parquet: unknown field 'labell'; did you mean"),
        ({"image_folder": {"size": 0}}, "source.image_folder.size: "),
    ],
)
def test_wrong_sources_are_explained(spec: Any, expected: str) -> None:
    assert problem(lambda: DataConfig.parse({"source": spec})).startswith(expected)


def test_digits_are_those_of_scikit_learn() -> None:
    loaded = load_digits()
    train, test = (
        DataConfig.parse({"source": "digits"}).named_source()[1].read_all(p) for p in PARTS
    )
    grey = np.concatenate([train[0], test[0]])[:, 0]
    labels = np.concatenate([train[1], test[1]])
    ours = sorted(zip(labels, (image.tobytes() for image in grey), strict=True))
    theirs = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    assert ours == sorted(zip(loaded.target, (image.tobytes() for image in theirs), strict=True))
