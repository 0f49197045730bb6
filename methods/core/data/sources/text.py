"""Texts with a label each, in Parquet, CSV or JSON-lines files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from methods.core.data.parquet_images import check_complete
from methods.core.data.source import Labels, Part, SourceFacts, root_problem
from methods.core.data.tables import FORMS, column, is_table
from methods.core.data.text_source import TextSource
from spaces.config import knob
from spaces.problem import unknown


class Text(TextSource):
    """Files under ``root``; a row is a text and its label, a number from 0 up or a name.

    Of the files that a pattern finds, those count that end in .parquet, .csv, .tsv, .jsonl,
    .ndjson or .json (one object a line); all of one part must be of one kind. Names without
    ``classes`` are numbered in the alphabet's order.
    """

    train: str = knob("train*", "the training files, a pattern relative to root")
    test: str | None = knob("test*", "the test files; none if there are none")
    text: str = knob("text", "column of texts")
    label: str = knob("label", "column of labels")
    classes: tuple[str, ...] | None = knob(None, "class names; none means those in the files")

    def files(self) -> list[Path]:
        parts: tuple[Part, ...] = ("train", "test")
        return [path for part in parts for path in self._tables(part)]

    def facts(self) -> SourceFacts:
        shape = (self.vectors.size(), self.length, 1)
        names = self.classes or _names(self._column("train", "label"))
        return SourceFacts(shape, names, (0.0,), (1.0,))

    def labels(self, part: Part) -> Labels:
        found = self._column(part, "label")
        names = self.classes or _names(found if part == "train" else self._column("train", "label"))
        if numbers := _numbers(found):
            return np.array(numbers, np.int64)
        number_of = {name: number for number, name in enumerate(names)}
        if strange := sorted({str(label) for label in found} - set(number_of)):
            message = unknown("label", strange[0], number_of)
            raise root_problem(
                f"the {part} files under {self.root} have a label too many: {message}"
            )
        return np.array([number_of[str(label)] for label in found], np.int64)

    def texts(self, part: Part) -> list[str]:
        texts = self._column(part, "text")
        strange = next((text for text in texts if not isinstance(text, str)), None)
        if strange is not None:
            message = f"column {self.text!r} of the {part} files under {self.root} needs texts"
            raise root_problem(f"{message}, found {strange!r}")
        return texts

    def _column(self, part: Part, setting: str) -> list[Any]:
        name = getattr(self, setting)
        return [value for path in self._tables(part) for value in column(path, name, setting)]

    def _tables(self, part: Part) -> tuple[Path, ...]:
        pattern = self.train if part == "train" else self.test
        if pattern is None:
            return ()
        root = self.folder(f"it must hold files of texts {pattern}")
        found = tuple(path for path in sorted(root.glob(pattern)) if is_table(path))
        if not found:
            raise root_problem(
                f"{root} must hold files {pattern} that end in {', '.join(FORMS)} (`train` and "
                f"`test` are the patterns; `test: null` where there is no test split)"
            )
        if len(kinds := sorted({path.suffix for path in found})) > 1:
            message = f"{root} holds files {pattern} of several kinds: {', '.join(kinds)}"
            raise root_problem(f"{message}; name one, like `{part}: {pattern}{kinds[0]}`")
        check_complete(found)
        return found


def _names(labels: Sequence[Any]) -> tuple[str, ...]:
    """Numbers from 0 to the highest, or the names there are, sorted."""
    if numbers := _numbers(labels):
        return tuple(map(str, range(max(numbers) + 1)))
    return tuple(sorted({str(label) for label in labels}))


def _numbers(labels: Sequence[Any]) -> list[int] | None:
    """The labels as whole numbers, if all are; CSV has them as text."""
    try:
        numbers = [int(label) for label in labels if not isinstance(label, bool | float)]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == len(labels) else None
