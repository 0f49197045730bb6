"""Images in Parquet files, in the format of data hubs: one row is one example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillhouse.methods.core.data.base.file_kinds import read_head
from stillhouse.methods.core.data.base.source import (
    Images,
    Labels,
    Part,
    damaged_file_error,
    root_error,
    wrong_form_error,
)
from stillhouse.methods.core.data.formats.encoded_images import Decoder, EncodedImage
from stillhouse.methods.core.data.formats.hub_metadata import class_names
from stillhouse.methods.core.data.formats.shards import check_files
from stillhouse.spaces.config.problems import ConfigError, unknown_message

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class ParquetImages:
    """The files of each part, in order, and the columns to read.

    An image is encoded bytes, or a struct with a field ``bytes``. If ``image`` is None, the only
    column of that type is used. A label is a whole number.
    """

    shards: Mapping[Part, tuple[Path, ...]]
    image: str | None = None
    label: str = "label"
    decoder: Decoder = field(default_factory=Decoder)

    def files(self) -> list[Path]:
        """All files of all parts."""
        for shards in self.shards.values():
            check_files(shards)
        return [path for shards in self.shards.values() for path in shards]

    def labels(self, part: Part) -> Labels:
        """[N]; [0] if there is no such part."""
        parts = [self._labels(path) for path in self.shards.get(part, ())]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def image_chunks(self, part: Part) -> Iterator[Images]:
        """The images in order, in chunks [n, C, H, W]."""
        return self.decoder.decode_chunks(self.iter_encoded(part))

    def first_image(self) -> EncodedImage:
        """The first training image."""
        for item in self.iter_encoded("train"):
            return item
        raise root_error(f"{self.shards['train'][0]} holds no rows")

    def iter_encoded(self, part: Part) -> Iterator[EncodedImage]:
        """The encoded images of a part, in order."""
        for path in self.shards.get(part, ()):
            name = self.image or _find_image_column(path)
            _check_column(path, name)
            with _arrow_errors(path):
                yield from _iter_rows(path, name)

    def class_names(self) -> tuple[str, ...] | None:
        """The class names in the metadata of the first file, or None."""
        metadata = _read_schema(self.shards["train"][0]).metadata or {}
        return class_names(metadata.get(b"huggingface", b"{}"), self.label)

    def _labels(self, path: Path) -> Labels:
        _check_column(path, self.label)
        with _arrow_errors(path):
            column = pq.read_table(path, columns=[self.label])[self.label]
            if pa.types.is_uint64(column.type):
                column = column.cast(
                    pa.int64()
                )  # raises an error for numbers that would become negative
        if not pa.types.is_integer(column.type) or column.null_count:
            message = f"column {self.label!r} of {path} needs whole numbers, found {column.type}"
            raise root_error(f"{message} with {column.null_count} gaps")
        labels: Labels = column.to_numpy().astype(np.int64)
        return labels


def _iter_rows(path: Path, name: str) -> Iterator[EncodedImage]:
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[name]):
            column = batch.column(0)
            if pa.types.is_struct(column.type):
                column = pc.struct_field(column, "bytes")
            for value in column:
                content = value.as_py()
                if not isinstance(content, bytes):
                    raise root_error(f"{path} row {row} holds no bytes in column {name!r}")
                yield EncodedImage(f"{path} row {row}", content)
                row += 1


@contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    """Convert Arrow's errors for ``path`` to a ConfigError of one line."""
    try:
        yield
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged_file_error(path, error, "Parquet") from None


def _read_schema(path: Path) -> Any:
    if error := wrong_form_error(path, read_head(path), "Parquet"):
        raise error
    with _arrow_errors(path):
        return pq.read_schema(path)


def _check_column(path: Path, name: str) -> None:
    columns = _read_schema(path).names
    if name not in columns:
        raise root_error(f"{path}: {unknown_message('column', name, columns)}")
    if columns.count(name) > 1:
        message = f"{path} has {columns.count(name)} columns {name!r}; give each its own name"
        raise root_error(message)


def _find_image_column(path: Path) -> str:
    fields = [f.name for f in _read_schema(path) if _holds_images(f.type)]
    if len(fields) != 1:
        field_names = ", ".join(fields) or "none"
        raise root_error(
            f"{path} needs one column of images unless `image` names it: {field_names}"
        )
    return str(fields[0])


def _holds_images(arrow_type: Any) -> bool:
    if pa.types.is_struct(arrow_type):
        return bool(arrow_type.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(arrow_type) or pa.types.is_large_binary(arrow_type))
