"""``stillhouse methods``: what there is to learn by, as each method's own file tells it."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any

import typer

from stillhouse.methods.core.objective.method import Method
from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.search.cli.show import Json, as_json, as_table, console

Name = Annotated[str | None, typer.Argument(help="A method; without, all of them.")]


def methods(name: Name = None, json: Json = False) -> None:
    """Every method in a line; or all of one: paper, formula, fields, needs, presets."""
    if name is None:
        rows = [{"method": each, **_summary(METHODS.load(each))} for each in METHODS.names()]
        if json:
            as_json(rows)
            return
        columns = ("method", "about", "needs")
        as_table(columns, [(r["method"], r["about"], ", ".join(r["needs"])) for r in rows])
        return
    told = described(name)
    if json:
        as_json(told)
        return
    _show(told)


def described(name: str) -> dict[str, Any]:
    """All there is to know of a method, as JSON types.

    Raises:
        ConfigError: there is no such method; the message names the nearest.
    """
    method = METHODS.load(name)
    about, *paragraphs = _paragraphs(method)
    formula = [p for p in paragraphs if p.startswith("    ")]
    words = [p for p in paragraphs if not p.startswith("    ")]
    paper = [p for p in words if re.search(r"\b(19|20)\d\d\b", p)]
    return {
        "method": name,
        "about": " ".join(about.split()),
        "formula": inspect.cleandoc("\n" + "\n\n".join(formula)),
        "words": [" ".join(p.split()) for p in words if p not in paper],
        "paper": [" ".join(p.split()) for p in paper],
        "version": method.version,
        "needs": _needs(method),
        "fields": _fields(method),
        "presets": [
            {
                "preset": preset,
                "settings": dict(published.settings),
                "source": published.source,
                "beside": list(published.beside),
            }
            for preset, published in method.presets.items()
        ],
    }


def _summary(method: type[Method]) -> dict[str, Any]:
    return {"about": " ".join(_paragraphs(method)[0].split()), "needs": _needs(method)}


def _paragraphs(method: type[Method]) -> list[str]:
    """Of the file's docstring; a formula keeps its indentation."""
    text = inspect.getmodule(method).__doc__ or ""
    return [part.strip("\n") for part in re.split(r"\n\s*\n", text) if part.strip()]


def _needs(method: type[Method]) -> list[str]:
    brings = method.Config().brings()
    found = {
        "a teacher": method.needs_teacher,
        "labels": method.needs_labels,
        "equally many logits": method.compares_logits,
        "features": hasattr(method, "distance") or "at" in method.Config.model_fields,
    }
    return [need for need, so in found.items() if so] + [_brought(value) for value in brings]


def _brought(value: Any) -> str:
    """``SeveralTeachers(...)`` as ``can have several teachers made``."""
    return f"can have {re.sub(r'(?<!^)(?=[A-Z])', ' ', type(value).__name__).lower()} made"


def _fields(method: type[Method]) -> list[dict[str, Any]]:
    ranges = {field: str(domain) for field, domain in method.Config.space().items()}
    return [
        {
            "setting": field,
            "default": str(info.default),
            "range": ranges.get(field, ""),
            "meaning": info.description or "",
        }
        for field, info in method.Config.model_fields.items()
    ]


def _show(told: dict[str, Any]) -> None:
    said = [f"{told['method']}: {told['about']}", _indented(told["formula"]), *told["words"]]
    said += [
        f"Source: {' '.join(told['paper'])}",
        f"Needs: {', '.join(told['needs']) or 'nothing'}",
    ]
    for text in filter(None, said):
        console.print(text, markup=False)
        console.print()
    columns = ("setting", "default", "range", "meaning")
    as_table(columns, [[row[column] for column in columns] for row in told["fields"]])
    if told["presets"]:
        console.print()
        rows = [
            (p["preset"], _settings(p["settings"]), p["source"], ", ".join(p["beside"]))
            for p in told["presets"]
        ]
        as_table(("preset", "settings", "source", "published with"), rows)


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in settings.items())


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
