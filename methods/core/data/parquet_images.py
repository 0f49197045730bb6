"""Images in Parquet files, as data hubs publish them: one row an example."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from methods.core.data.encoded import Decoder, Encoded
from methods.core.data.source import Images, Labels, Part, damaged, root_problem
from spaces.problem import unknown

_ROWS = 1024


@dataclass(frozen=True)
class ParquetImages:
    """The files of each part, in order, and the columns to read.

    An image is encoded bytes, or a struct with a field ``bytes``; ``image`` none means the only
    column of that type. A label is a whole number from 0 up.
    """

    shards: Mapping[Part, tuple[Path, ...]]
    image: str | None = None
    label: str = "label"
    decoder: Decoder = field(default_factory=Decoder)

    def files(self) -> list[Path]:
        """All files of all parts."""
        for shards in self.shards.values():
            check_complete(shards)
        return [path for shards in self.shards.values() for path in shards]

    def labels(self, part: Part) -> Labels:
        """[N]; [0] where there is no such part."""
        parts = [self._labels(path) for path in self.shards.get(part, ())]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def chunks(self, part: Part) -> Iterator[Images]:
        """The images in order, [n, C, H, W] at a time."""
        # Both parts are read as the first training image is: grey or colour.
        decoder = self.decoder.settled(self.first())
        return decoder.chunks(self._encoded(self.shards.get(part, ())))

    def first(self) -> Encoded:
        """The first training image."""
        for item in self._encoded(self.shards["train"]):
            return item
        raise root_problem(f"{self.shards['train'][0]} holds no rows")

    def class_names(self) -> tuple[str, ...] | None:
        """The names that hubs keep in the file's metadata, where they do."""
        metadata = _schema(self.shards["train"][0]).metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features")
        names = (features or {}).get(self.label, {}).get("names")
        return tuple(names) if names else None

    def _labels(self, path: Path) -> Labels:
        _column(path, self.label)
        try:
            column = pq.read_table(path, columns=[self.label])[self.label]
        except (pa.ArrowInvalid, OSError) as error:
            raise damaged(path, error) from None
        if not pa.types.is_integer(column.type) or column.null_count:
            message = f"column {self.label!r} of {path} needs whole numbers, found {column.type}"
            raise root_problem(f"{message} with {column.null_count} gaps")
        labels: Labels = column.to_numpy().astype(np.int64)
        return labels

    def _encoded(self, shards: tuple[Path, ...]) -> Iterator[Encoded]:
        for path in shards:
            name = self.image or _image_column(path)
            _column(path, name)
            try:
                yield from _rows(path, name)
            except (pa.ArrowInvalid, OSError) as error:
                raise damaged(path, error) from None


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


def _schema(path: Path) -> Any:
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, error) from None


def _column(path: Path, name: str) -> None:
    columns = _schema(path).names
    if name not in columns:
        raise root_problem(f"{path}: {unknown('column', name, columns)}")


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


def check_complete(shards: tuple[Path, ...]) -> None:
    """A set of files that says ``-of-00003`` must have three."""
    totals = [re.search(r"-of-(\d+)\.parquet$", path.name) for path in shards]
    for path, total in zip(shards, totals, strict=True):
        if total and int(total[1]) != len(shards):
            message = f"{path.parent} has {len(shards)} of the {int(total[1])} files that"
            raise root_problem(f"{message} {path.name} belongs to")
