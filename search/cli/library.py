"""``stillhouse library``: what is kept, whether it is whole, and what nobody needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from stillhouse.search.artifacts.existing import existing
from stillhouse.search.artifacts.need import the_run
from stillhouse.search.artifacts.store import Damaged, Library
from stillhouse.search.cli.show import Json, as_json, as_table, console
from stillhouse.search.core.errors import Lost
from stillhouse.search.core.formatting import duration
from stillhouse.search.driver.garbage import delete, unneeded
from stillhouse.spaces.config.problems import ConfigError

app = typer.Typer(help="What is kept in a library.", no_args_is_help=True)

Place = Annotated[str, typer.Option("--library", help="Folder or URI of the library.")]
HERE = "stillhouse-library"


@app.command("list")
def list_(place: Place = HERE, kind: str = "", json: Json = False) -> None:
    """All artifacts, newest first."""
    records = [r for r in existing(place).records() if kind in ("", r.kind)]
    if json:
        as_json([record.plain() for record in records])
        return
    as_table(
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
                duration(r.seconds),
            )
            for r in records
        ],
    )


@app.command()
def show(key: str, place: Place = HERE, json: Json = False) -> None:
    """One artifact's record; the key's first letters are enough."""
    record = existing(place).find(key)
    if json:
        as_json(record.plain())
        return
    rows = [("key", record.key), ("name", record.name), ("kind", record.kind)]
    rows += [("made", f"{record.made_at}, took {duration(record.seconds)}")]
    rows += [("parents", ", ".join(p[:12] for p in record.parents) or "none")]
    rows += [(name, f"{value:,.6g}") for name, value in record.figures.items()]
    rows += [(name, str(value)) for name, value in record.facts.items()]
    as_table(("field", "value"), rows)


@app.command()
def verify(place: Place = HERE, json: Json = False) -> None:
    """Read every artifact and compare its digest; damaged ones are set aside.

    A record of a newer version is named too, and left where it is.
    """
    library = existing(place)
    keys = list(library.keys())
    damaged = [line for key in keys if (line := _damage(library, key))]
    if json:
        as_json({"checked": len(keys), "damaged": damaged})
    else:
        for line in damaged:
            console.print(line, markup=False)
        console.print(f"{len(keys)} artifacts checked, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


@app.command()
def collect(
    place: Place = HERE,
    forget: Annotated[
        list[str] | None,
        typer.Option(help="A run, by name or id, that needs nothing more."),
    ] = None,
    older: Annotated[float, typer.Option(help="Only artifacts older than so many hours.")] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only tell.")] = False,
    json: Json = False,
) -> None:
    """Delete what no search needs: artifacts of no run, torn and damaged files."""
    library = existing(place)
    forgotten = _ids(library, forget or [])
    found = unneeded(library, forgotten, older)
    if yes:
        found = delete(library, found, forgotten)
    if json:
        keys = [record.key for record in found.records]
        told = {"deleted": yes, "artifacts": keys, "files": list(found.files)}
        as_json({**told, "bytes": found.bytes})
        return
    verb = "deleted" if yes else "would delete (add --yes)"
    counts = f"{len(found.records)} artifacts, {found.bytes:,} bytes, {len(found.files)} files"
    console.print(f"{verb}: {counts}")


def _damage(library: Library, key: str) -> str:
    """One line on what is wrong with an artifact; empty where it is whole, or gone meanwhile."""
    try:
        library.open(key)
    except KeyError:
        return ""
    except Damaged as error:
        return str(error)
    except ConfigError as error:
        return (
            f"artifact {key[:12]} has a record of another version: {' '.join(str(error).split())}"
        )
    except Lost as error:
        if library.in_one_step:  # the store is away: the next artifact would wait as long
            raise
        return f"artifact {key[:12]} cannot be read: {error}"
    return ""


def _ids(library: Library, asked: Iterable[str]) -> set[str]:
    """The ids of the runs that a person names by id or name.

    Raises:
        ConfigError: there is no such run, or several share the name.
    """
    runs = [need.run for need in library.needs().values()]
    return {the_run(name, runs, "--forget").id for name in asked}
