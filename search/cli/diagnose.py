"""``stillhouse diagnose``: measures the teacher of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.options import (
    AddressOption,
    FileArgument,
    InlineOption,
    JsonOption,
    SetOption,
    parse_overrides,
)
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.driver.driver import ExecutionBackend
from stillhouse.search.evaluation.diagnosis import diagnose_teacher
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import Event, StageChanged
from stillhouse.search.tuning.local_backend import LocalBackend


def diagnose(
    file: FileArgument,
    changes: SetOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds for each student.")] = 3,
    into: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("diagnosis"),
    address: AddressOption = None,
    inline: InlineOption = False,
    json: JsonOption = False,
) -> None:
    """Measure how sure a teacher is, how it relates classes, and which of these help a student."""
    from stillhouse.search.report.page.diagnosis import (
        VARIANT_COLUMNS,
        diagnosis_sentences,
        variant_rows,
        write_diagnosis,
    )

    experiment = load_experiment(file, parse_overrides(changes))
    library = Library(experiment.library)
    library.check_writable()
    dispatcher = EventDispatcher(() if json else (_print_stage,))
    backend: ExecutionBackend
    if inline:
        backend = LocalBackend(experiment, library, dispatcher)
    else:
        from stillhouse.search.tuning.ray_backend import RayBackend

        backend = RayBackend(experiment, library, dispatcher, into, address)
    try:
        result = diagnose_teacher(experiment, seeds, backend.build, library)
    finally:
        backend.close()
    files = write_diagnosis(result, into / experiment.name)
    if json:
        print_json({**result.plain(), "file": str(files[-1])})
        return
    for sentence in diagnosis_sentences(result):
        console.print(sentence, markup=False)
    console.print()
    print_table(VARIANT_COLUMNS, variant_rows(result))
    console.print(f"\npage: {files[-1]}", markup=False)


def _print_stage(event: Event) -> None:
    if isinstance(event, StageChanged) and event.state in ("made", "reused", "failed"):
        console.print(f"{event.label}: {event.state}", markup=False)
