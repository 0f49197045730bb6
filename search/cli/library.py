"""``stillhouse library``: list, show, verify and collect the artifacts of a library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from stillhouse.search.artifacts.existing import open_existing
from stillhouse.search.artifacts.need import find_run
from stillhouse.search.artifacts.store import CorruptArtifact, Library
from stillhouse.search.cli.options import JsonOption
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.core.formatting import format_duration
from stillhouse.search.driver.garbage import delete_unused, find_unused
from stillhouse.spaces.config.problems import ConfigError

app = typer.Typer(help="List, show, verify or delete artifacts of a library.", no_args_is_help=True)

LibraryOption = Annotated[str, typer.Option("--library", help="Folder or URI of the library.")]
DEFAULT_LIBRARY = "stillhouse-library"


@app.command("list")
def list_(place: LibraryOption = DEFAULT_LIBRARY, kind: str = "", json: JsonOption = False) -> None:
    """List all artifacts, newest first."""
    records = [r for r in open_existing(place).records() if kind in ("", r.kind)]
    if json:
        print_json([record.plain() for record in records])
        return
    print_table(
        ("key", "kind", "name", "val_accuracy", "parameters", "bytes", "made", "took"),
        [
            (
                r.key[:12],
                r.kind,
                r.name,
                r.figures.get("val_accuracy", float("nan")),
                int(r.figures.get("parameters", 0)),
                r.payload.size,
                r.made_at,
                format_duration(r.seconds),
            )
            for r in records
        ],
    )


@app.command()
def show(key: str, place: LibraryOption = DEFAULT_LIBRARY, json: JsonOption = False) -> None:
    """Show the record of one artifact; the first letters of its key are enough."""
    record = open_existing(place).find_by_prefix(key)
    if json:
        print_json(record.plain())
        return
    rows = [("key", record.key), ("name", record.name), ("kind", record.kind)]
    rows += [("made", f"{record.made_at}, took {format_duration(record.seconds)}")]
    rows += [("parents", ", ".join(p[:12] for p in record.parents) or "none")]
    rows += [(name, f"{value:,.6g}") for name, value in record.figures.items()]
    rows += [(name, str(value)) for name, value in record.facts.items()]
    print_table(("field", "value"), rows)


@app.command()
def verify(place: LibraryOption = DEFAULT_LIBRARY, json: JsonOption = False) -> None:
    """Read every artifact and compare its digest; quarantine damaged ones.

    A record of a newer version is reported and not moved.
    """
    library = open_existing(place)
    keys = list(library.keys())
    damage_lines = [line for key in keys if (line := _damage_message(library, key))]
    if json:
        print_json({"checked": len(keys), "damaged": damage_lines})
    else:
        for line in damage_lines:
            console.print(line, markup=False)
        console.print(f"{len(keys)} artifacts checked, {len(damage_lines)} damaged")
    if damage_lines:
        raise typer.Exit(1)


@app.command()
def collect(
    place: LibraryOption = DEFAULT_LIBRARY,
    forget: Annotated[
        list[str] | None,
        typer.Option(help="A run (name or id) whose artifacts may be deleted."),
    ] = None,
    older: Annotated[float, typer.Option(help="Only artifacts older than this many hours.")] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete, not only count.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete artifacts that no run needs, and incomplete and damaged files."""
    library = open_existing(place)
    forgotten = _run_ids(library, forget or [])
    unneeded_files = find_unused(library, forgotten, older)
    if yes:
        unneeded_files = delete_unused(library, unneeded_files, forgotten)
    if json:
        keys = [record.key for record in unneeded_files.records]
        result = {"deleted": yes, "artifacts": keys, "files": list(unneeded_files.files)}
        print_json({**result, "bytes": unneeded_files.total_bytes})
        return
    verb = "deleted" if yes else "would delete (add --yes)"
    num_artifacts, num_files = len(unneeded_files.records), len(unneeded_files.files)
    size = f"{unneeded_files.total_bytes:,} bytes"
    console.print(f"{verb}: {num_artifacts} artifacts, {size}, {num_files} files")


def _damage_message(library: Library, key: str) -> str:
    """One line on the damage of an artifact; empty if it is intact, or was deleted meanwhile."""
    try:
        library.open_artifact(key)
    except KeyError:
        return ""
    except CorruptArtifact as error:
        return str(error)
    except ConfigError as error:
        return (
            f"artifact {key[:12]} has a record of another version: {' '.join(str(error).split())}"
        )
    except StorageUnavailable as error:
        if library.is_object_store:  # it is unreachable: each further artifact would wait as long
            raise
        return f"artifact {key[:12]} cannot be read: {error}"
    return ""


def _run_ids(library: Library, names: Iterable[str]) -> set[str]:
    """The ids of the runs that the user names by id or name.

    Raises:
        ConfigError: there is no such run, or several share the name.
    """
    runs = [need.run for need in library.all_references().values()]
    return {find_run(name, runs, "--forget").id for name in names}
