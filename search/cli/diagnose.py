"""``stillhouse diagnose``: what the teacher of an experiment has to teach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.runs import Address, File, Inline
from stillhouse.search.cli.show import Json, Set, as_json, as_table, console, parse_changes
from stillhouse.search.driver.driver import Workshop
from stillhouse.search.evaluation.diagnosis import diagnose as examine
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.dispatcher import Announcer
from stillhouse.search.monitoring.events import Event, StageChanged
from stillhouse.search.tuning.local_backend import Inline as InlineShop


def diagnose(
    file: File,
    changes: Set = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds of each student.")] = 3,
    into: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("diagnosis"),
    address: Address = None,
    inline: Inline = False,
    json: Json = False,
) -> None:
    """Tell how sure a teacher is, how it relates classes, and what of that helps the student."""
    from stillhouse.search.report.page.diagnosis import COLUMNS, rows, sentences, write_diagnosis

    experiment = load_experiment(file, parse_changes(changes))
    library = Library(experiment.library)
    library.check_writable()
    announce = Announcer(() if json else (_tell,))
    shop: Workshop
    if inline:
        shop = InlineShop(experiment, library, announce)
    else:
        from stillhouse.search.tuning.ray_backend import OnRay

        shop = OnRay(experiment, library, announce, into, address)
    try:
        found = examine(experiment, seeds, shop.make, library)
    finally:
        shop.close()
    files = write_diagnosis(found, into / experiment.name)
    if json:
        as_json({**found.plain(), "file": str(files[-1])})
        return
    for sentence in sentences(found):
        console.print(sentence, markup=False)
    console.print()
    as_table(COLUMNS, rows(found))
    console.print(f"\npage: {files[-1]}", markup=False)


def _tell(event: Event) -> None:
    if isinstance(event, StageChanged) and event.state in ("made", "reused", "failed"):
        console.print(f"{event.label}: {event.state}", markup=False)
