"""``stillhouse library``: what is kept, whether it is whole, and what nobody needs."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from search.cli.show import Json, as_json, as_table, console
from search.library.store import Damaged, Library
from search.report.wording import duration
from spaces.problem import ConfigError, Problem, unknown

app = typer.Typer(help="What is kept in a library.", no_args_is_help=True)

Place = Annotated[str, typer.Option("--library", help="Folder or URI of the library.")]
HERE = "stillhouse-library"


@app.command("list")
def list_(place: Place = HERE, kind: str = "", json: Json = False) -> None:
    """All artifacts, newest first."""
    records = [r for r in Library(place).records() if kind in ("", r.kind)]
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
    record = Library(place).find(key)
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
    """Read every artifact and compare its digest; damaged ones are set aside."""
    library = Library(place)
    keys, damaged = list(library.keys()), []
    for key in keys:
        try:
            library.open(key)
        except Damaged as error:
            damaged.append(str(error))
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
        list[str] | None, typer.Option(help="A run whose artifacts are no longer needed.")
    ] = None,
    older: Annotated[float, typer.Option(help="Only artifacts older than so many hours.")] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only tell.")] = False,
    json: Json = False,
) -> None:
    """Delete what no search needs: artifacts of no run, torn and damaged files."""
    library = Library(place)
    noted = library.needed()
    for name in forget or []:
        if name not in noted:
            raise ConfigError([Problem("--forget", unknown("run", name, noted))])
    needed = {name: keys for name, keys in noted.items() if name not in (forget or [])}
    kept = set().union(*needed.values())
    kept |= {p for key in kept if (r := library.record(key)) for p in r.parents}
    # A search that is running notes its needs at its end: leave what is young alone.
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=older)
    unneeded = [
        record
        for record in library.records()
        if record.key not in kept and datetime.datetime.fromisoformat(record.made_at) <= before
    ]
    leftovers = library.leftovers(before)
    freed = sum(record.payload.size for record in unneeded)
    if yes:
        for path in leftovers:
            library.remove_file(path, before)
        for record in unneeded:
            library.remove(record.key)
        for name in forget or []:
            library.forget_search(name)
    if json:
        keys = [record.key for record in unneeded]
        as_json({"deleted": yes, "artifacts": keys, "files": leftovers, "bytes": freed})
        return
    verb = "deleted" if yes else "would delete (add --yes)"
    console.print(f"{verb}: {len(unneeded)} artifacts, {freed:,} bytes, {len(leftovers)} files")
