"""Images in Parquet files, as data hubs publish them: one row is one example."""

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

from stillhouse.methods.core.data.base.file_kinds import head_of
from stillhouse.methods.core.data.base.source import (
    Images,
    Labels,
    Part,
    damaged,
    root_problem,
    wrong_kind,
)
from stillhouse.methods.core.data.formats.encoded_images import Decoder, Encoded
from stillhouse.methods.core.data.formats.hub_metadata import class_names
from stillhouse.methods.core.data.formats.shards import check_files
from stillhouse.spaces.config.problems import ConfigError, unknown

_ROWS = 1024


@dataclass(frozen=True)
class ParquetImages:
    """The files of each part, in order, and the columns to read.

    An image is encoded bytes, or a struct with a field ``bytes``; ``image`` none means the only
    column of that type. A label is a whole number.
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
        """[N]; [0] where there is no such part."""
        parts = [self._labels(path) for path in self.shards.get(part, ())]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def chunks(self, part: Part) -> Iterator[Images]:
        """The images in order, [n, C, H, W] at a time."""
        return self.decoder.chunks(self.encoded(part))

    def first(self) -> Encoded:
        """The first training image."""
        for item in self.encoded("train"):
            return item
        raise root_problem(f"{self.shards['train'][0]} holds no rows")

    def encoded(self, part: Part) -> Iterator[Encoded]:
        """The images of a part in order, as the files hold them."""
        for path in self.shards.get(part, ()):
            name = self.image or _image_column(path)
            _column(path, name)
            with _readable(path):
                yield from _rows(path, name)

    def class_names(self) -> tuple[str, ...] | None:
        """The names that hubs keep in the file's metadata, where they do."""
        metadata = _schema(self.shards["train"][0]).metadata or {}
        return class_names(metadata.get(b"huggingface", b"{}"), self.label)

    def _labels(self, path: Path) -> Labels:
        _column(path, self.label)
        with _readable(path):
            column = pq.read_table(path, columns=[self.label])[self.label]
            if pa.types.is_uint64(column.type):
                column = column.cast(pa.int64())  # refuses what would turn negative
        if not pa.types.is_integer(column.type) or column.null_count:
            message = f"column {self.label!r} of {path} needs whole numbers, found {column.type}"
            raise root_problem(f"{message} with {column.null_count} gaps")
        labels: Labels = column.to_numpy().astype(np.int64)
        return labels


def _rows(path: Path, name: str) -> Iterator[Encoded]:
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=[name]):
            column = batch.column(0)
            if pa.types.is_struct(column.type):
                column = pc.struct_field(column, "bytes")
            for value in column:
                content = value.as_py()
                if not isinstance(content, bytes):
                    raise root_problem(f"{path} row {row} holds no bytes in column {name!r}")
                yield Encoded(f"{path} row {row}", content)
                row += 1


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Arrow's errors on reading ``path`` as one line that names it."""
    try:
        yield
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error, "Parquet") from None


def _schema(path: Path) -> Any:
    if error := wrong_kind(path, head_of(path), "Parquet"):
        raise error
    with _readable(path):
        return pq.read_schema(path)


def _column(path: Path, name: str) -> None:
    columns = _schema(path).names
    if name not in columns:
        raise root_problem(f"{path}: {unknown('column', name, columns)}")
    if columns.count(name) > 1:
        message = f"{path} has {columns.count(name)} columns {name!r}; give each its own name"
        raise root_problem(message)


def _image_column(path: Path) -> str:
    fields = [f.name for f in _schema(path) if _holds_images(f.type)]
    if len(fields) != 1:
        found = ", ".join(fields) or "none"
        raise root_problem(f"{path} needs one column of images unless `image` names it: {found}")
    return str(fields[0])


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
