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
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.markup import Html, table
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.statistics import ranking

KIND = "distil_data"
MOST = 30
_ACROSS = 10  # most examples in a row
_WIDE, _SIDE, _LABEL, _GAP = 7.6, 0.61, 0.58, 0.25  # inches: all, an image, a label, below it
_NAMED = 12  # most classes that are named below a label
_ROW, _LINE, _LINES = 0.54, 96, 3  # of a sentence: inches, characters and lines


def chosen(outcome: Outcome) -> Record | None:
    """The distilled data that the best trial rests on, or that was made at all."""
    keys = [key for trial in ranking(outcome)[:1] for key in trial.keys.values()]
    found = [outcome.stages[key] for key in (*keys, *outcome.stages) if key in outcome.stages]
    return next((record for record in found if record.kind == KIND), None)


def draw(outcome: Outcome, opened: Mapping[str, Mapping[str, Tensor]]) -> Picture | None:
    """The picture; none where nothing was distilled, or its tensors are not at hand.

    Args:
        opened: key of an artifact -> its tensors.
    """
    record = chosen(outcome)
    if record is None or record.key not in opened:
        return None
    tensors = opened[record.key]
    if sentences := record.facts.get("sentences"):
        figure, below = _read(sentences, record, tensors["labels"]), _table(record, tensors)
        return Picture("distilled", "Distilled data", _caption(record, tensors), figure, below)
    return Picture("distilled", "Distilled data", _caption(record, tensors), _seen(record, tensors))


def _seen(record: Record, tensors: Mapping[str, Tensor]) -> Figure:
    """Each image above its label."""
    images, labels = tensors["images"][:MOST], tensors["labels"][:MOST]
    across = min(_ACROSS, len(images))
    rows = math.ceil(len(images) / across)
    each = _SIDE + _LABEL + _GAP
    figure = Figure(figsize=(_WIDE, rows * each))
    limits = _limits(labels)
    inch, wide = 1 / (rows * each), 0.955 / _ACROSS
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(place, across)
        left, top = 0.045 + column * wide, 1 - row * each * inch
        side = (0.84 * wide, _SIDE * inch)
        _image(figure.add_axes((left, top - (_SIDE + 0.03) * inch, *side)), image.numpy())
        bottom = top - (_SIDE + _LABEL + 0.05) * inch
        below = figure.add_axes((left, bottom, 0.84 * wide, (_LABEL - 0.06) * inch))
        below.set_ylim(*limits)
        _label(below, label.tolist(), _names(record), scale=column == 0)
    return figure


def _read(sentences: Sequence[str], record: Record, labels: Tensor) -> Figure:
    """Each sentence beside its label."""
    shown = list(zip(sentences, labels, strict=True))[:MOST]
    figure = Figure(figsize=(_WIDE, len(shown) * _ROW))
    limits, inch = _limits(labels[:MOST]), 1 / (len(shown) * _ROW)
    for place, (sentence, label) in enumerate(shown):
        top = 1 - place * _ROW * inch
        said = textwrap.fill(sentence, _LINE, max_lines=_LINES, placeholder=" ...")
        figure.text(0.0, top - 0.04 * inch, said, va="top", fontsize=7.5, linespacing=1.25)
        axes = figure.add_axes((0.8, top - (_ROW - 0.14) * inch, 0.2, (_ROW - 0.18) * inch))
        axes.set_ylim(*limits)
        _label(axes, label.tolist(), _names(record), scale=True)
    return figure


def _table(record: Record, tensors: Mapping[str, Tensor]) -> Html:
    """All sentences, and what their labels have of every class."""
    names = map(str, record.facts["data"]["class_names"])
    labels = tensors["labels"].tolist()
    rows = [
        (sentence, *(f"{value:.2f}" for value in label))
        for sentence, label in zip(record.facts["sentences"], labels, strict=True)
    ]
    return table(("the nearest words", *names), rows, sortable=True)


def _limits(labels: Tensor) -> tuple[float, float]:
    """Of an axis of labels, with 0 and a little room."""
    low, high = min(0.0, labels.min().item()), max(0.0, labels.max().item())
    room = 0.06 * (high - low)
    return low - room, high + room


def _image(axes: Axes, image: np.ndarray) -> None:
    """Channels first; each from its own least to its own largest value, as they go beyond 0..1."""
    look.bare(axes)
    low, high = float(image.min()), float(image.max())
    grey = ((image - low) / ((high - low) or 1.0)).transpose(1, 2, 0)
    shown = grey if grey.shape[2] == 3 else grey.mean(axis=2)
    colours = None if shown.ndim == 3 else "gray"
    axes.imshow(shown, cmap=colours, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")


def _label(axes: Axes, label: Sequence[float], names: Sequence[str], scale: bool) -> None:
    """A bar a class: blue towards it, orange away from it."""
    look.bare(axes, keep=("left",) if scale else ())
    colours = [look.TRIAL if value >= 0 else look.TEACHER for value in label]
    axes.bar(range(len(label)), label, color=colours, width=0.8)
    axes.axhline(0.0, color=look.FAINT, lw=0.6)
    axes.set_xlim(-0.7, len(label) - 0.3)
    if len(label) <= _NAMED:
        axes.set_xticks(range(len(label)), names, fontsize=5.5)
        axes.tick_params("x", pad=1)
    if scale:
        axes.locator_params("y", nbins=3)
        axes.tick_params("y", labelsize=6, pad=1)
    else:
        axes.set_yticks([])


def _names(record: Record) -> list[str]:
    """The classes' names where they are short, else their numbers."""
    names = [str(name) for name in record.facts["data"]["class_names"]]
    return names if max(map(len, names)) < 2 else [str(number) for number in range(len(names))]


def _caption(record: Record, tensors: Mapping[str, Tensor]) -> str:
    count, rates = len(tensors["images"]), tensors["rates"].tolist()
    network = record.identity["work"]["network"]["family"]
    sentences = "sentences" in record.facts
    what = "sentences in the nearest words, each beside" if sentences else "examples, each above"
    told = f"{count} {what} its label: a bar a class, below the line where negative. "
    sizes = ", ".join(f"{rate:.3g}" for rate in rates[:8]) + (", ..." if len(rates) > 8 else "")
    steps = f"{len(rates)} step{'s' * (len(rates) != 1)} on them, of size{'s' * (len(rates) != 1)}"
    told += f"After {steps} {sizes}, {network}"
    if "val_accuracy" in record.figures:
        told += f" is right on {formatting.value('val_accuracy', record.figures['val_accuracy'])}"
        told += " of the validation split"
        if "val_accuracy_spread" in record.figures:
            told += f" (the mean of {record.identity['work']['judged_on']} fresh networks)"
    else:
        told += " has learnt what it can"
    shown = f" The first {MOST} are shown." if count > MOST else ""
    if sentences:
        return f"{told}.{shown} The table has the first words of each and all of its label."
    return f"{told}.{shown} Grey values are scaled for each image."
