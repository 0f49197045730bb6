"""The distilled examples of the best trial, each with the soft label that it is learnt with.

Images stand above their labels. Texts are shown in the words nearest to them, beside their
labels; below the picture all of them are in a table.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stillhouse.search.artifacts.record import Record
from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.table import Table
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.statistics import ranking

DISTIL_KIND = "distil_data"
MAX_EXAMPLES = 30
_MAX_COLUMNS = 10  # most examples in a row
_WIDTH, _IMAGE_SIDE, _LABEL_HEIGHT, _GAP = (
    7.6,
    0.61,
    0.58,
    0.25,
)  # inches: all, an image, a label, below it
_MAX_NAMED_CLASSES = 12  # most classes that are named below a label
_SENTENCE_HEIGHT, _LINE_LENGTH, _MAX_LINES = (
    0.54,
    96,
    3,
)  # of a sentence: inches, characters and lines


def select_record(outcome: Outcome) -> Record | None:
    """The distilled data that the best trial rests on, or that was made at all."""
    keys = [key for trial in ranking(outcome)[:1] for key in trial.stage_keys.values()]
    records = [outcome.records[key] for key in (*keys, *outcome.records) if key in outcome.records]
    return next((record for record in records if record.kind == DISTIL_KIND), None)


def draw(outcome: Outcome, tensors_by_key: Mapping[str, Mapping[str, Tensor]]) -> Picture | None:
    """The picture; none where nothing was distilled, or its tensors are not at hand.

    Args:
        tensors_by_key: key of an artifact -> its tensors.
    """
    record = select_record(outcome)
    if record is None or record.key not in tensors_by_key:
        return None
    tensors = tensors_by_key[record.key]
    if sentences := record.facts.get("sentences"):
        figure, below = (
            _draw_sentences(sentences, record, tensors["labels"]),
            _sentence_table(record, tensors),
        )
        return Picture("distilled", "Distilled data", _caption(record, tensors), figure, below)
    return Picture(
        "distilled", "Distilled data", _caption(record, tensors), _draw_images(record, tensors)
    )


def _draw_images(record: Record, tensors: Mapping[str, Tensor]) -> Figure:
    """Each image above its label."""
    images, labels = tensors["images"][:MAX_EXAMPLES], tensors["labels"][:MAX_EXAMPLES]
    columns = min(_MAX_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    row_height = _IMAGE_SIDE + _LABEL_HEIGHT + _GAP
    figure = Figure(figsize=(_WIDTH, rows * row_height))
    limits = _axis_limits(labels)
    inch, column_width = 1 / (rows * row_height), 0.955 / _MAX_COLUMNS
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(index, columns)
        left, top = 0.045 + column * column_width, 1 - row * row_height * inch
        side = (0.84 * column_width, _IMAGE_SIDE * inch)
        _draw_image(
            figure.add_axes((left, top - (_IMAGE_SIDE + 0.03) * inch, *side)), image.numpy()
        )
        bottom = top - (_IMAGE_SIDE + _LABEL_HEIGHT + 0.05) * inch
        label_axes = figure.add_axes(
            (left, bottom, 0.84 * column_width, (_LABEL_HEIGHT - 0.06) * inch)
        )
        label_axes.set_ylim(*limits)
        _draw_label(label_axes, label.tolist(), _class_labels(record), scale=column == 0)
    return figure


def _draw_sentences(sentences: Sequence[str], record: Record, labels: Tensor) -> Figure:
    """Each sentence beside its label."""
    examples = list(zip(sentences, labels, strict=True))[:MAX_EXAMPLES]
    figure = Figure(figsize=(_WIDTH, len(examples) * _SENTENCE_HEIGHT))
    limits, inch = _axis_limits(labels[:MAX_EXAMPLES]), 1 / (len(examples) * _SENTENCE_HEIGHT)
    for index, (sentence, label) in enumerate(examples):
        top = 1 - index * _SENTENCE_HEIGHT * inch
        wrapped = textwrap.fill(sentence, _LINE_LENGTH, max_lines=_MAX_LINES, placeholder=" ...")
        figure.text(0.0, top - 0.04 * inch, wrapped, va="top", fontsize=7.5, linespacing=1.25)
        axes = figure.add_axes(
            (0.8, top - (_SENTENCE_HEIGHT - 0.14) * inch, 0.2, (_SENTENCE_HEIGHT - 0.18) * inch)
        )
        axes.set_ylim(*limits)
        _draw_label(axes, label.tolist(), _class_labels(record), scale=True)
    return figure


def _sentence_table(record: Record, tensors: Mapping[str, Tensor]) -> Table | None:
    """All sentences, and what their labels have of every class."""
    names = record.data.class_names
    labels = tensors["labels"].tolist()
    rows = [
        (sentence, *(f"{value:.2f}" for value in label))
        for sentence, label in zip(record.facts["sentences"], labels, strict=True)
    ]
    return Table.of(("the nearest words", *names), rows, sortable=True)


def _axis_limits(labels: Tensor) -> tuple[float, float]:
    """Of an axis of labels, with 0 and a little room."""
    low, high = min(0.0, labels.min().item()), max(0.0, labels.max().item())
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _draw_image(axes: Axes, image: np.ndarray) -> None:
    """Channels first; each from its own least to its own largest value, as they go beyond 0..1."""
    mpl_style.hide_frame(axes)
    low, high = float(image.min()), float(image.max())
    scaled = ((image - low) / ((high - low) or 1.0)).transpose(1, 2, 0)
    pixels = scaled if scaled.shape[2] == 3 else scaled.mean(axis=2)
    colours = None if pixels.ndim == 3 else "gray"
    axes.imshow(pixels, cmap=colours, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")


def _draw_label(axes: Axes, label: Sequence[float], names: Sequence[str], scale: bool) -> None:
    """A bar a class: blue towards it, orange away from it."""
    mpl_style.hide_frame(axes, keep_spines=("left",) if scale else ())
    colours = [mpl_style.TRIAL if value >= 0 else mpl_style.TEACHER for value in label]
    axes.bar(range(len(label)), label, color=colours, width=0.8)
    axes.axhline(0.0, color=mpl_style.FAINT, lw=0.6)
    axes.set_xlim(-0.7, len(label) - 0.3)
    if len(label) <= _MAX_NAMED_CLASSES:
        axes.set_xticks(range(len(label)), names, fontsize=5.5)
        axes.tick_params("x", pad=1)
    if scale:
        axes.locator_params("y", nbins=3)
        axes.tick_params("y", labelsize=6, pad=1)
    else:
        axes.set_yticks([])


def _class_labels(record: Record) -> list[str]:
    """The classes' names where they are short, else their numbers."""
    names = list(record.data.class_names)
    return names if max(map(len, names)) < 2 else [str(number) for number in range(len(names))]


def _caption(record: Record, tensors: Mapping[str, Tensor]) -> str:
    count, rates = len(tensors["images"]), tensors["rates"].tolist()
    network = record.settings["network"]["family"]
    sentences = "sentences" in record.facts
    layout = "sentences in the nearest words, each beside" if sentences else "examples, each above"
    caption = f"{count} {layout} its label: a bar a class, below the line where negative. "
    sizes = ", ".join(f"{rate:.3g}" for rate in rates[:8]) + (", ..." if len(rates) > 8 else "")
    steps = f"{len(rates)} step{'s' * (len(rates) != 1)} on them, of size{'s' * (len(rates) != 1)}"
    caption += f"After {steps} {sizes}, {network}"
    if "val_accuracy" in record.figures:
        caption += (
            " is right on "
            f"{formatting.format_value('val_accuracy', record.figures['val_accuracy'])}"
        )
        caption += " of the validation split"
        if "val_accuracy_spread" in record.figures:
            caption += f" (the mean of {record.settings['judged_on']} fresh networks)"
    else:
        caption += " has learnt what it can"
    truncation = f" The first {MAX_EXAMPLES} are shown." if count > MAX_EXAMPLES else ""
    if sentences:
        return f"{caption}.{truncation} The table has the first words of each and all of its label."
    return f"{caption}.{truncation} Grey values are scaled for each image."
