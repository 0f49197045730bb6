"""Images stand upright, and are grey only where all training images are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stillhouse.methods.core.data.base.source import Source
from stillhouse.methods.core.data.formats.encoded_images import Decoder, EncodedImage, common_mode
from stillhouse.methods.core.data.sources import resolve

# EXIF 2.32, tag 274: where the stored image's row 0 and column 0 are, seen by a person.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
STORED = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(stored: np.ndarray, orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    more: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    more |= {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(stored).save(buffer, kind, exif=exif, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_stands_as_its_camera_was_held(kind: str, orientation: int) -> None:
    pixels = Decoder("RGB").decode(EncodedImage("x", encoded(STORED, orientation, kind)))
    expected = UPRIGHT[orientation](STORED)
    assert pixels.shape == expected.shape
    # JPEG loses a little even at its best.
    np.testing.assert_allclose(pixels.astype(int), expected, atol=40 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    pixels = Decoder("RGB").decode(EncodedImage("x", encoded(STORED, orientation)))
    np.testing.assert_array_equal(pixels, STORED)


def test_broken_notes_of_a_camera_leave_the_pixels() -> None:
    buffer = io.BytesIO()
    Image.fromarray(STORED).save(buffer, "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\x01")
    pixels = Decoder("RGB").decode(EncodedImage("x", buffer.getvalue()))
    np.testing.assert_array_equal(pixels, STORED)


def folder(root: Path, images: list[bytes]) -> Source:
    for number, content in enumerate(images):
        path = root / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return resolve("image_folder", root=str(root))[1]


def parquet(root: Path, images: list[bytes]) -> Source:
    labels = [number % 2 for number in range(len(images))]
    table = pa.table({"image": pa.array(images, pa.binary()), "label": labels})
    pq.write_table(table, root / "train.parquet")
    return resolve({"parquet": {"test": None}}, root=str(root))[1]


@pytest.mark.parametrize("make", [folder, parquet])
def test_images_of_both_directions_are_one_size_once_they_stand(tmp_path: Path, make: Any) -> None:
    source = make(tmp_path, [encoded(UPRIGHT[8](STORED), 6), encoded(STORED, 1)])
    images, _ = source.read_all("train")
    assert source.info().shape == (3, 4, 6)
    np.testing.assert_array_equal(images[0], images[1])


def plain(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (6, 4), 77 if mode in ("L", "1") else (200, 10, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("make", [folder, parquet])
@pytest.mark.parametrize(
    ("modes", "channels"),
    [("LL", 1), ("LLLL", 1), ("L1", 1), ("LRLL", 3), ("LLLR", 3), ("RLLL", 3), ("RR", 3)],
)
def test_one_image_in_colour_makes_the_set_one_in_colour(
    tmp_path: Path, make: Any, modes: str, channels: int
) -> None:
    """The first image alone does not decide: a grey one would take the colour from all."""
    source = make(tmp_path, [plain({"R": "RGB"}.get(mode, mode)) for mode in modes])
    assert source.info().shape == (channels, 4, 6)
    images, labels = source.read_all("train")
    assert images.shape == (len(modes), channels, 4, 6)
    if channels == 3:
        order = np.argsort(labels, kind="stable") if make is folder else range(len(modes))
        shown = sorted(tuple(image[:, 0, 0]) for image in images[order])
        told = sorted((200, 10, 30) if mode == "R" else (77, 77, 77) for mode in modes)
        assert shown == told


def test_only_the_training_images_decide(tmp_path: Path) -> None:
    source = folder(tmp_path, [plain("L"), plain("L")])
    (tmp_path / "test" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a" / "x.png").write_bytes(plain("RGB"))
    assert source.info().shape == (1, 4, 6)
    assert source.read_all("test")[0].shape == (1, 1, 4, 6)


def test_headers_are_read_up_to_the_first_colour() -> None:
    taken = []

    def items() -> Any:
        for mode in ("L", "RGB", "L"):
            taken.append(mode)
            yield EncodedImage(mode, plain(mode))

    assert common_mode(items()) == "RGB"
    assert taken == ["L", "RGB"]


def test_what_was_looked_up_once_is_not_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path, [plain("L"), plain("L")])
    assert source.info().shape[0] == 1
    monkeypatch.setattr("stillhouse.methods.core.data.formats.encoded_images.common_mode", None)
    assert source.info().shape[0] == 1
