"""``stillhouse methods``: describes the methods by the docstrings of their files."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any

import typer

from stillhouse.methods.core.objective.method import Method
from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.search.cli.options import JsonOption
from stillhouse.search.cli.show import console, print_json, print_table

Name = Annotated[str | None, typer.Argument(help="A method; without it, all methods.")]


def methods(name: Name = None, json: JsonOption = False) -> None:
    """List the methods, or show one: paper, formula, settings, needs, presets."""
    if name is None:
        rows = [
            {"method": method_name, **_summary(METHODS.load(method_name))}
            for method_name in METHODS.names()
        ]
        if json:
            print_json(rows)
            return
        columns = ("method", "about", "needs")
        print_table(columns, [(r["method"], r["about"], ", ".join(r["needs"])) for r in rows])
        return
    description = method_description(name)
    if json:
        print_json(description)
        return
    _print_method(description)


def method_description(name: str) -> dict[str, Any]:
    """The description of a method, as JSON types.

    Raises:
        ConfigError: there is no such method; the message names the nearest.
    """
    method = METHODS.load(name)
    first_paragraph, *paragraphs = _paragraphs(method)
    formula = [p for p in paragraphs if p.startswith("    ")]
    prose = [p for p in paragraphs if not p.startswith("    ")]
    paper = [p for p in prose if re.search(r"\b(19|20)\d\d\b", p)]
    return {
        "method": name,
        "about": " ".join(first_paragraph.split()),
        "formula": inspect.cleandoc("\n" + "\n\n".join(formula)),
        "words": [" ".join(p.split()) for p in prose if p not in paper],
        "paper": [" ".join(p.split()) for p in paper],
        "version": method.version,
        "needs": _needs_text(method),
        "fields": _field_rows(method),
        "presets": [
            {
                "preset": preset,
                "settings": dict(published.settings),
                "source": published.source,
                "beside": list(published.companions),
            }
            for preset, published in method.presets.items()
        ],
    }


def _summary(method: type[Method]) -> dict[str, Any]:
    return {"about": " ".join(_paragraphs(method)[0].split()), "needs": _needs_text(method)}


def _paragraphs(method: type[Method]) -> list[str]:
    """The paragraphs of the file's docstring; a formula keeps its indentation."""
    text = inspect.getmodule(method).__doc__ or ""
    return [part.strip("\n") for part in re.split(r"\n\s*\n", text) if part.strip()]


def _needs_text(method: type[Method]) -> list[str]:
    requirements = method.Config().requirements()
    needs = {
        "a teacher": method.needs_teacher,
        "labels": method.needs_labels,
        "equally many logits": method.compares_logits,
        "features": hasattr(method, "distance") or "at" in method.Config.model_fields,
    }
    return [need for need, applies in needs.items() if applies] + [
        _requirement_text(value) for value in requirements
    ]


def _requirement_text(value: Any) -> str:
    """``SeveralTeachers(...)`` as ``can have several teachers made``."""
    return f"can have {re.sub(r'(?<!^)(?=[A-Z])', ' ', type(value).__name__).lower()} made"


def _field_rows(method: type[Method]) -> list[dict[str, Any]]:
    ranges = {field: str(domain) for field, domain in method.Config.search_space().items()}
    return [
        {
            "setting": field,
            "default": str(info.default),
            "range": ranges.get(field, ""),
            "meaning": info.description or "",
        }
        for field, info in method.Config.model_fields.items()
    ]


def _print_method(description: dict[str, Any]) -> None:
    paragraphs = [
        f"{description['method']}: {description['about']}",
        _indent(description["formula"]),
        *description["words"],
    ]
    paragraphs += [
        f"Source: {' '.join(description['paper'])}",
        f"Needs: {', '.join(description['needs']) or 'nothing'}",
    ]
    for text in filter(None, paragraphs):
        console.print(text, markup=False)
        console.print()
    columns = ("setting", "default", "range", "meaning")
    print_table(columns, [[row[column] for column in columns] for row in description["fields"]])
    if description["presets"]:
        console.print()
        rows = [
            (p["preset"], _settings_text(p["settings"]), p["source"], ", ".join(p["beside"]))
            for p in description["presets"]
        ]
        print_table(("preset", "settings", "source", "published with"), rows)


def _settings_text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in settings.items())


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
