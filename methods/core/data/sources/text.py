"""Texts with labels in Parquet, CSV, TSV or JSON-lines files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from stillhouse.methods.core.data.base.source import (
    PARTS,
    Labels,
    Part,
    SourceInfo,
    check_class_names,
    root_error,
)
from stillhouse.methods.core.data.formats.labels import ClassIndex, label_error
from stillhouse.methods.core.data.formats.labels_version_1 import reads_as_version_1
from stillhouse.methods.core.data.formats.shards import check_files, matching_files
from stillhouse.methods.core.data.formats.tables import COLUMN_READERS, is_table, read_column
from stillhouse.methods.core.data.text.text_source import TextSource
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.problems import ConfigError


class Text(TextSource):
    """Files under ``root``; a row is a text and its label, a whole number or a name.

    A pattern selects files that end in .parquet, .csv, .tsv, .jsonl, .ndjson or .json (one object
    per line); all files of a part must be of one kind. Only .csv files have quoting. Without
    ``classes`` every label of the training files is a class: numbers in numeric order, names in
    alphabetical order. With ``classes`` labels are these names, or their numbers from 0.
    """

    version: ClassVar[int] = 2

    train: str = setting("train*", "the training files, a pattern relative to root")
    test: str | None = setting("test*", "the test files; none if there are none")
    text: str = setting("text", "column of texts")
    label: str = setting("label", "column of labels")
    classes: tuple[str, ...] | None = setting(None, "class names; none means the training labels")

    _names = field_validator("classes")(check_class_names)

    def effective_version(self) -> int:
        return 1 if _reads_as_version_1(self, self.fingerprint()) else self.version

    def files(self) -> list[Path]:
        return [path for part in PARTS for path in self._table_paths(part)]

    def info(self) -> SourceInfo:
        shape = (self.resolved_embedding.num_dimensions(), self.length, 1)
        names = self.classes or self._class_index(self._raw_labels("train")).names
        return SourceInfo(shape, names, (0.0,), (1.0,))

    def labels(self, part: Part) -> Labels:
        raw_labels = self._raw_labels(part)
        classes = self._class_index(raw_labels if part == "train" else self._raw_labels("train"))
        try:
            return classes.to_indices(raw_labels)
        except ValueError as error:
            remedy = "`classes` names all classes, `test: null` leaves these files out"
            raise self._label_error(part, f"{error}; {remedy}") from None

    def texts(self, part: Part) -> list[str]:
        return self._read_column(part, "text")

    def _class_index(self, training: list[Any]) -> ClassIndex:
        try:
            return ClassIndex.from_labels(training, self.classes)
        except ValueError as error:
            remedy = "leave `classes` out, and the training labels are the classes"
            raise self._label_error("train", f"{error}; {remedy}") from None

    def _label_error(self, part: Part, message: str) -> ConfigError:
        return root_error(f"the {part} files under {self.root} have a label too many: {message}")

    def _raw_labels(self, part: Part) -> list[Any]:
        return self._read_column(part, "label")

    def _read_column(self, part: Part, setting: str) -> list[Any]:
        name, check = getattr(self, setting), label_error if setting == "label" else _text_error
        tables = self._table_paths(part)
        return [value for path in tables for value in read_column(path, name, setting, check)]

    def _table_paths(self, part: Part) -> tuple[Path, ...]:
        pattern = self.train if part == "train" else self.test
        if pattern is None:
            return ()
        root = self.root_folder(f"it must hold files of texts {pattern}")
        paths = tuple(path for path in matching_files(root, pattern) if is_table(path))
        if not paths:
            endings = ", ".join(COLUMN_READERS)
            raise root_error(
                f"{root} must hold files {pattern} that end in {endings} (`train` and `test` are "
                f"the patterns; `test: null` where there is no test split)"
            )
        if len(kinds := sorted({path.suffix for path in paths})) > 1:
            message = f"{root} holds files {pattern} of several kinds: {', '.join(kinds)}"
            raise root_error(f"{message}; name one, like `{part}: {pattern}{kinds[0]}`")
        check_files(paths)
        return paths


@lru_cache(maxsize=32)
def _reads_as_version_1(source: Text, _content_fingerprint: str) -> bool:
    """Whether version 1 gave the same labels for these files; their stages then keep their keys.

    Args:
        _content_fingerprint: of the files, so that changed files are read again.
    """
    if any(path.suffix == ".tsv" and b'"' in path.read_bytes() for path in source.files()):
        return False
    training, test = (source._raw_labels(part) for part in PARTS)
    source.labels("test")  # raises an error for unknown labels
    classes = source._class_index(training)
    return reads_as_version_1(classes, source.classes is not None, [training, test])


def _text_error(text: Any) -> str | None:
    return None if isinstance(text, str) else f"needs texts, found {text!r}"
