"""Decoded images and what else is made of a data set's files, kept as memory-mapped files.

Decoding a set takes minutes, mapping it takes none, and all worker processes of a machine share
the pages. The folder is ``~/.cache/stillhouse`` unless the environment variable STILLHOUSE_CACHE
names another; everything in it can be deleted at any time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from stillhouse.methods.core.data.base.source import Images
from stillhouse.spaces.config.problems import ConfigError


def cache_folder() -> Path:
    """The folder for decoded images."""
    return Path(os.environ.get("STILLHOUSE_CACHE", "~/.cache/stillhouse")).expanduser()


def cached_images(
    key: str, shape: tuple[int, int, int, int], produce: Callable[[], Iterator[Images]]
) -> Images:
    """The images [N, H, W, C] named ``key``, mapped from the folder, made first if missing.

    Several processes may make the same file at once: each writes its own and renames it, so that
    a reader sees a whole file or none.

    Args:
        make: the same images in order, some at a time, [n, H, W, C].

    Raises:
        ConfigError: the folder cannot be written to.
    """
    path = cache_folder() / f"{key}.npy"
    images = _map_images(path, shape)
    if images is None:
        _write_images(path, shape, produce())
        images = _map_images(path, shape)
        assert images is not None, f"{path} vanished as soon as it was written"
    return images


def cached_array(key: str, produce: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array named ``key``, of whatever shape and type ``produce`` gives it, kept like images.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    path = cache_folder() / f"{key}.npy"
    array_on_disk = _map_array(path)
    if array_on_disk is None:
        array = produce()
        with _atomic_write(path) as file:
            np.save(file, array, allow_pickle=False)
        array_on_disk = _map_array(path)
        assert array_on_disk is not None, f"{path} vanished as soon as it was written"
    return array_on_disk


def _map_images(path: Path, shape: tuple[int, ...]) -> Images | None:
    """The file if it is whole."""
    images = _map_array(path)
    is_complete = images is not None and images.shape == shape and images.dtype == np.uint8
    return images if is_complete else None


def _map_array(path: Path) -> NDArray[Any] | None:
    """The array if there is one. Copy-on-write, as torch wants memory it may write to."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c")
    except (OSError, EOFError, ValueError):
        return None
    return array


def _write_images(path: Path, shape: tuple[int, int, int, int], chunks: Iterator[Images]) -> None:
    with _atomic_write(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)


@contextmanager
def _atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file that stands in the place of ``path`` when all is written, and never before."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary_path = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    except OSError as error:
        raise _unwritable_error(path.parent, error) from None
    try:
        # Written, not mapped: on a full disk a write fails where a mapping kills the process.
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(temporary_path, path)
    except OSError as error:
        raise _unwritable_error(path.parent, error) from None
    finally:
        Path(temporary_path).unlink(missing_ok=True)


def _unwritable_error(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot keep decoded images in {folder} ({error.strerror or error}); "
        f"the environment variable STILLHOUSE_CACHE names another folder"
    )
