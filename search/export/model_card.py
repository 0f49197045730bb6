"""The model card: what somebody who gets an exported student should know of it (Mitchell et al.
2019: what it is, what it was made from, how good it is and how that was measured)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from stillhouse.search.artifacts.record import Record
from stillhouse.search.export.exporting import Departure, Exported
from stillhouse.search.results.outcome import Outcome, Repeated


def card(
    outcome: Outcome,
    best: Repeated,
    record: Record,
    departure: Departure,
    tests: Sequence[float],
    recipe: str,
) -> str:
    """The card as Markdown.

    Args:
        best: the configuration over its seeds.
        record: of the seed that left.
        tests: accuracy of every seed on the test split; none where nobody has looked at it.
        recipe: the configuration as an experiment file.
    """
    goal = outcome.goals[0]
    parts = [
        f"# {record.name} of {outcome.name}",
        f"The best of {len(outcome.trials)} trials ({best.name}), made by Stillhouse on "
        f"{record.made_at}; artifact `{record.key}`.",
        "## How good it is",
        *_accuracy(best, goal.figure, tests),
        "## What it costs",
        _costs(record, departure),
        "## What it learnt from",
        *_data(record),
        *_teachers(record, outcome.stages),
        "## How to run it",
        *_usage(departure),
        "## How it was made",
        f"`stillhouse launch` makes it again from this file (torch "
        f"{record.facts['versions']['torch']}, {record.facts['device']}, git "
        f"{record.facts['versions']['git']}):",
        f"```yaml\n{recipe.rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(best: Repeated, figure: str, tests: Sequence[float]) -> Iterator[str]:
    seeds = f"over {len(best.seeds)} seed{'s' * (len(best.seeds) != 1)}"
    rows = [("chosen by", figure, f"{best.mean(figure):.4f} ± {best.spread(figure):.4f} {seeds}")]
    if tests:
        spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
        said = f"{statistics.fmean(tests):.4f} ± {spread:.4f} {seeds}"
        rows.append(("never looked at before", "test accuracy", said))
    yield _table(("", "figure", "mean ± standard deviation"), rows)
    if not tests:
        yield (
            "It was not measured on a test split: the figure above is that by which it was chosen. "
            "`stillhouse reuse` trains it over fresh seeds and measures those there, once."
        )


def _costs(record: Record, departure: Departure) -> str:
    def row(name: str, told: Exported) -> tuple[str, ...]:
        same = (f"{told.difference:.1e}", f"{told.agreement:.2%}") if told.format else ("", "")
        return name, f"{told.bytes:,}", f"{told.latency_ms:.3f}", *same

    rows = [row("as it was made", departure.network)]
    rows += [row(f"`{_name(file)}`", file) for file in departure.files]
    counted = " and ".join(
        f"{record.figures[name]:,.0f} {what}"
        for name, what in (("parameters", "parameters"), ("flops", "FLOPs an image"))
        if name in record.figures
    )
    head = ("", "bytes", "ms an image", "logits differ by", "same class")
    compared = (
        f"Answers compared on {departure.images} images of the {departure.split} split; the "
        "largest difference, as a share of the largest logit."
    )
    return f"{counted}. One image at a time, one thread.\n\n{_table(head, rows)}\n\n{compared}"


def _data(record: Record) -> Iterator[str]:
    about, identity = record.facts["data"], record.identity.get("data") or {}
    source = next(iter(identity.get("source", {"data": None})))
    sizes = ", ".join(f"{count:,} {split}" for split, count in about.get("sizes", {}).items())
    classes = ", ".join(map(str, about.get("class_names", ())))
    shape = " x ".join(map(str, about["shape"]))
    yield f"`{source}`: {shape} in 0..1, {about['classes']} classes ({classes}); {sizes}."


def _teachers(record: Record, stages: Mapping[str, Record]) -> Iterator[str]:
    rows = []
    for parent in _lineage(record, stages):
        accuracy = parent.figures.get("val_accuracy")
        size = parent.figures.get("parameters")
        rows.append(
            (
                parent.name,
                parent.kind,
                f"{size:,.0f}" if size is not None else "",
                f"{accuracy:.4f}" if accuracy is not None else "",
                f"`{parent.key[:12]}`",
            )
        )
    if rows:
        yield "What it was taught by or made from, the first of them first:"
        yield _table(("", "kind", "parameters", "validation accuracy", "artifact"), rows)
    else:
        yield "Labels alone; there was no teacher."


def _lineage(record: Record, stages: Mapping[str, Record]) -> list[Record]:
    """What a record rests on, each once, parents first."""
    found: dict[str, Record] = {}
    for key in record.parents:
        if key in stages:
            found |= {each.key: each for each in _lineage(stages[key], stages)}
            found[key] = stages[key]
    return list(found.values())


def _usage(departure: Departure) -> Iterator[str]:
    yield "`images` are float32 in 0..1, [N, channels, height, width]; it normalises by itself."
    for file in departure.files:
        code = departure.usage[file.format].replace("FILE", _name(file))
        yield f"```python\n{code}\n```"


def _name(file: Exported) -> str:
    return file.file.rpartition("/")[2]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
