"""The model card of an exported student: its origin, its quality and how that was measured
(Mitchell et al. 2019)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from stillhouse.search.artifacts.record import Record
from stillhouse.search.export.exporting import ExportedFile, ExportResult
from stillhouse.search.results.outcome import Outcome, SeedRuns


def model_card(
    outcome: Outcome,
    seed_runs: SeedRuns,
    record: Record,
    export_result: ExportResult,
    test_accuracies: Sequence[float],
    config_yaml: str,
) -> str:
    """The card as Markdown.

    Args:
        seed_runs: the configuration over its seeds.
        record: the record of the exported seed.
        test_accuracies: accuracy of each seed on the test split; empty if it was not measured.
        config_yaml: the configuration as an experiment file.
    """
    goal = outcome.goals[0]
    parts = [
        f"# {record.name} of {outcome.name}",
        f"The best of {len(outcome.trials)} trials ({seed_runs.name}), made by Stillhouse on "
        f"{record.made_at}; artifact `{record.key}`.",
        "## How good it is",
        *_accuracy_section(seed_runs, goal.figure, test_accuracies),
        "## What it costs",
        _cost_section(record, export_result),
        "## What it learnt from",
        *_data_section(record),
        *_ancestor_section(record, outcome.records),
        "## How to run it",
        *_usage_section(export_result),
        "## How it was made",
        f"`stillhouse launch` makes it again from this file (torch "
        f"{record.environment.versions['torch']}, {record.environment.device}, git "
        f"{record.environment.versions['git']}):",
        f"```yaml\n{config_yaml.rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy_section(
    seed_runs: SeedRuns, metric: str, test_accuracies: Sequence[float]
) -> Iterator[str]:
    seeds = f"over {len(seed_runs.seeds)} seed{'s' * (len(seed_runs.seeds) != 1)}"
    rows = [
        (
            "chosen by",
            metric,
            f"{seed_runs.mean(metric):.4f} ± {seed_runs.spread(metric):.4f} {seeds}",
        )
    ]
    if test_accuracies:
        spread = statistics.stdev(test_accuracies) if len(test_accuracies) > 1 else 0.0
        test_text = f"{statistics.fmean(test_accuracies):.4f} ± {spread:.4f} {seeds}"
        rows.append(("never looked at before", "test accuracy", test_text))
    yield _table(("", "figure", "mean ± standard deviation"), rows)
    if not test_accuracies:
        yield (
            "It was not measured on a test split: the figure above is that by which it was chosen. "
            "`stillhouse reuse` trains it over fresh seeds and measures those there, once."
        )


def _cost_section(record: Record, export_result: ExportResult) -> str:
    def row(name: str, exported: ExportedFile) -> tuple[str, ...]:
        agreement = (
            (f"{exported.difference:.1e}", f"{exported.agreement:.2%}")
            if exported.format
            else ("", "")
        )
        return name, f"{exported.bytes:,}", f"{exported.latency_ms:.3f}", *agreement

    rows = [row("as it was made", export_result.network)]
    rows += [row(f"`{_file_name(file)}`", file) for file in export_result.files]
    size_text = " and ".join(
        f"{record.figures[name]:,.0f} {label}"
        for name, label in (("parameters", "parameters"), ("flops", "FLOPs an image"))
        if name in record.figures
    )
    head = ("", "bytes", "ms an image", "logits differ by", "same class")
    comparison_text = (
        f"Answers compared on {export_result.images} images of the {export_result.split} "
        "split; the "
        "largest difference, as a share of the largest logit."
    )
    return (
        f"{size_text}. One image at a time, one "
        f"thread.\n\n{_table(head, rows)}\n\n{comparison_text}"
    )


def _data_section(record: Record) -> Iterator[str]:
    data, identity = record.data, record.identity.get("data") or {}
    source = next(iter(identity.get("source", {"data": None})))
    sizes = ", ".join(f"{count:,} {split}" for split, count in data.sizes.items())
    classes = ", ".join(data.class_names)
    shape = " x ".join(map(str, data.shape))
    yield f"`{source}`: {shape} in 0..1, {data.classes} classes ({classes}); {sizes}."


def _ancestor_section(record: Record, stages: Mapping[str, Record]) -> Iterator[str]:
    rows = []
    for parent in _ancestors(record, stages):
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


def _ancestors(record: Record, stages: Mapping[str, Record]) -> list[Record]:
    """The ancestors of a record, each once, parents first."""
    ancestors: dict[str, Record] = {}
    for key in record.parents:
        if key in stages:
            ancestors |= {ancestor.key: ancestor for ancestor in _ancestors(stages[key], stages)}
            ancestors[key] = stages[key]
    return list(ancestors.values())


def _usage_section(export_result: ExportResult) -> Iterator[str]:
    yield "`images` are float32 in 0..1, [N, channels, height, width]; it normalises by itself."
    for file in export_result.files:
        code = export_result.usage[file.format].replace("FILE", _file_name(file))
        yield f"```python\n{code}\n```"


def _file_name(file: ExportedFile) -> str:
    return file.file.rpartition("/")[2]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
