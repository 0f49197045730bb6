"""The distilled examples of the best trial, each above the soft label that it is learnt with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from search.library.record import Record
from search.outcome import Outcome
from search.report import picture as look
from search.report import wording
from search.report.picture import Picture
from search.report.summary import ranking

KIND = "distil_data"
MOST = 30
_ACROSS = 10  # most examples in a row
_WIDE, _SIDE, _LABEL, _GAP = 7.6, 0.61, 0.58, 0.25  # inches: all, an image, a label, below it
_NAMED = 12  # most classes that are named below a label


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
    images, labels = tensors["images"][:MOST], tensors["labels"][:MOST]
    across = min(_ACROSS, len(images))
    rows = math.ceil(len(images) / across)
    each = _SIDE + _LABEL + _GAP
    figure = Figure(figsize=(_WIDE, rows * each))
    low, high = min(0.0, labels.min().item()), max(0.0, labels.max().item())
    room = 0.06 * (high - low)
    inch, wide = 1 / (rows * each), 0.955 / _ACROSS
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(place, across)
        left, top = 0.045 + column * wide, 1 - row * each * inch
        side = (0.84 * wide, _SIDE * inch)
        _image(figure.add_axes((left, top - (_SIDE + 0.03) * inch, *side)), image.numpy())
        bottom = top - (_SIDE + _LABEL + 0.05) * inch
        below = figure.add_axes((left, bottom, 0.84 * wide, (_LABEL - 0.06) * inch))
        below.set_ylim(low - room, high + room)
        _label(below, label.tolist(), _names(record), scale=column == 0)
    return Picture("distilled", "Distilled data", _caption(record, tensors), figure)


def _image(axes: Axes, image: np.ndarray) -> None:
    """Channels first; each from its own least to its own largest value, as they go beyond 0..1.

    What is one wide, as a text in its embedding, is shown with its channels downwards.
    """
    look.bare(axes)
    image = image.transpose(2, 0, 1) if image.shape[2] == 1 else image
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
    told = f"{count} examples, each above its label: a bar a class, below the line where negative. "
    sizes = ", ".join(f"{rate:.3g}" for rate in rates[:8]) + (", ..." if len(rates) > 8 else "")
    steps = f"{len(rates)} step{'s' * (len(rates) != 1)} on them, of size{'s' * (len(rates) != 1)}"
    told += f"After {steps} {sizes}, {network}"
    if "val_accuracy" in record.figures:
        told += f" is right on {wording.value('val_accuracy', record.figures['val_accuracy'])}"
        told += " of the validation split"
        if "val_accuracy_spread" in record.figures:
            told += f" (the mean of {record.identity['work']['judged_on']} fresh networks)"
    else:
        told += " has learnt what it can"
    shown = f" The first {MOST} are shown." if count > MOST else ""
    return f"{told}.{shown} Grey values are scaled for each image."
