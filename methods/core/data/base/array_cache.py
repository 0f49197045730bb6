"""A cache of decoded images and other arrays from a data set's files, as memory-mapped files.

Decoding a set takes minutes. Mapping a file takes no time, and all processes of a machine share its
pages. The folder is ``~/.cache/stillhouse``, or that of the environment variable STILLHOUSE_CACHE.
Its files can be deleted at any time.
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
    """The folder of the cache."""
    return Path(os.environ.get("STILLHOUSE_CACHE", "~/.cache/stillhouse")).expanduser()


def cached_images(
    key: str, shape: tuple[int, int, int, int], produce: Callable[[], Iterator[Images]]
) -> Images:
    """The images [N, H, W, C] of ``key``, mapped from the folder; written first if missing.

    Several processes may write the same file: each writes its own and renames it, so a reader sees
    a whole file or none.

    Args:
        produce: returns the images in order, in chunks [n, H, W, C].

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def is_complete(images: NDArray[Any]) -> bool:
        return images.shape == shape and images.dtype == np.uint8

    return _cached(key, lambda path: _write_images(path, shape, produce()), is_complete)


def cached_array(key: str, produce: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array of ``key``, mapped from the folder; ``produce`` makes it if missing.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def write(path: Path) -> None:
        array = produce()
        with _atomic_write(path) as file:
            np.save(file, array, allow_pickle=False)

    return _cached(key, write, lambda _: True)


def _cached(
    key: str, write: Callable[[Path], None], is_complete: Callable[[NDArray[Any]], bool]
) -> NDArray[Any]:
    path = cache_folder() / f"{key}.npy"
    array = _map_array(path)
    if array is None or not is_complete(array):
        write(path)
        array = _map_array(path)
        assert array is not None, f"{path} vanished after it was written"
    return array


def _map_array(path: Path) -> NDArray[Any] | None:
    """The array, or None. It is copy-on-write because torch needs writable memory."""
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
    """A file that replaces ``path`` after it is written completely."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary_path = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    except OSError as error:
        raise _unwritable_error(path.parent, error) from None
    try:
        # Not mapped: on a full disk a write raises an error, but a mapping kills the process.
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
