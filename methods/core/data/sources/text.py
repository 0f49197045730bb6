"""Texts with a label each, in Parquet, CSV, TSV or JSON-lines files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from stillhouse.methods.core.data.base.source import (
    PARTS,
    Labels,
    Part,
    SourceFacts,
    check_names,
    root_problem,
)
from stillhouse.methods.core.data.formats.labels import Classes, label_fault
from stillhouse.methods.core.data.formats.labels_version_1 import as_version_1
from stillhouse.methods.core.data.formats.shards import check_files, matching
from stillhouse.methods.core.data.formats.tables import FORMS, column, is_table
from stillhouse.methods.core.data.text.text_source import TextSource
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.problems import ConfigError


class Text(TextSource):
    """Files under ``root``; a row is a text and its label, a whole number or a name.

    Of the files that a pattern finds, those count that end in .parquet, .csv, .tsv, .jsonl,
    .ndjson or .json (one object a line); all of one part must be of one kind. Quotes have a
    meaning in .csv alone. Without ``classes`` every label of the training files is a class:
    numbers in their order, names in the alphabet's order. With it labels are the names, or else
    their numbers from 0.
    """

    version: ClassVar[int] = 2

    train: str = knob("train*", "the training files, a pattern relative to root")
    test: str | None = knob("test*", "the test files; none if there are none")
    text: str = knob("text", "column of texts")
    label: str = knob("label", "column of labels")
    classes: tuple[str, ...] | None = knob(None, "class names; none means the training labels")

    _names = field_validator("classes")(check_names)

    def revision(self) -> int:
        return 1 if _as_before(self, self.fingerprint()) else self.version

    def files(self) -> list[Path]:
        return [path for part in PARTS for path in self._tables(part)]

    def facts(self) -> SourceFacts:
        shape = (self.vectors.size(), self.length, 1)
        names = self.classes or self._classes(self._labels("train")).names
        return SourceFacts(shape, names, (0.0,), (1.0,))

    def labels(self, part: Part) -> Labels:
        found = self._labels(part)
        classes = self._classes(found if part == "train" else self._labels("train"))
        try:
            return classes.numbers(found)
        except ValueError as error:
            remedy = "`classes` names all classes, `test: null` leaves these files out"
            raise self._problem(part, f"{error}; {remedy}") from None

    def texts(self, part: Part) -> list[str]:
        return self._column(part, "text")

    def _classes(self, training: list[Any]) -> Classes:
        try:
            return Classes.of(training, self.classes)
        except ValueError as error:
            remedy = "leave `classes` out, and the training labels are the classes"
            raise self._problem("train", f"{error}; {remedy}") from None

    def _problem(self, part: Part, message: str) -> ConfigError:
        return root_problem(f"the {part} files under {self.root} have a label too many: {message}")

    def _labels(self, part: Part) -> list[Any]:
        return self._column(part, "label")

    def _column(self, part: Part, setting: str) -> list[Any]:
        name, fault = getattr(self, setting), label_fault if setting == "label" else _text_fault
        tables = self._tables(part)
        return [value for path in tables for value in column(path, name, setting, fault)]

    def _tables(self, part: Part) -> tuple[Path, ...]:
        pattern = self.train if part == "train" else self.test
        if pattern is None:
            return ()
        root = self.folder(f"it must hold files of texts {pattern}")
        found = tuple(path for path in matching(root, pattern) if is_table(path))
        if not found:
            raise root_problem(
                f"{root} must hold files {pattern} that end in {', '.join(FORMS)} (`train` and "
                f"`test` are the patterns; `test: null` where there is no test split)"
            )
        if len(kinds := sorted({path.suffix for path in found})) > 1:
            message = f"{root} holds files {pattern} of several kinds: {', '.join(kinds)}"
            raise root_problem(f"{message}; name one, like `{part}: {pattern}{kinds[0]}`")
        check_files(found)
        return found


@lru_cache(maxsize=32)
def _as_before(source: Text, _digest: str) -> bool:
    """Whether version 1 read the same from these files: then their stages keep their keys.

    Args:
        _digest: fingerprint of the files, so that changed files are read again.
    """
    if any(path.suffix == ".tsv" and b'"' in path.read_bytes() for path in source.files()):
        return False
    training, test = (source._labels(part) for part in PARTS)
    source.labels("test")  # says which labels are in no class
    classes = source._classes(training)
    return as_version_1(classes, source.classes is not None, [training, test])


def _text_fault(text: Any) -> str | None:
    return None if isinstance(text, str) else f"needs texts, found {text!r}"
