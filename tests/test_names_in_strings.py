"""Names of modules and files in strings: nothing else fails when what they name moves."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import stillhouse as public

ROOT = Path(__file__).parents[1]
FOLDERS = ("search", "methods", "spaces", "benchmarks", "tests")
NAME = re.compile(r"stillhouse(\.\w+)+")
TAKES_NAMES = {
    "PluginRegistry",
    "import_module",
    "setattr",
    "delattr",
    "patch",
    "submit",
    "run_module",
}
"""Calls whose strings name a module, or something in one."""
SETTINGS = {"preload_python_modules"}
IMPORT = re.compile(r"from (stillhouse[\w.]*) import \(?([\w, \n]+)")
"""An import in a program that is held in a string."""
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FILE = re.compile(r"(?<![~/\w.-])[\w.-]+(?:/[\w.-]+)+\.(?:py|md|yaml|png|json|toml)\b")


def texts(node: ast.AST) -> Iterator[str]:
    """The strings in an argument; not those in calls of its own."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List):
        for each in node.elts:
            yield from texts(each)


def after_dash_m(node: ast.AST) -> Iterator[str]:
    """What ``python -m`` is to run, of a command line given as a sequence."""
    words = [None]
    for each in getattr(node, "elts", ()):
        inner = each.value if isinstance(each, ast.Starred) else each
        words += texts(inner) if isinstance(inner, ast.Tuple) else [getattr(inner, "value", None)]
    for before, word in itertools.pairwise(words):
        if before == "-m" and isinstance(word, str):
            yield word


def named_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in TAKES_NAMES:
                for argument in node.args:
                    yield from texts(argument)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in SETTINGS:
                    yield from texts(value)
        elif isinstance(node, ast.Tuple | ast.List):
            yield from after_dash_m(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for module, names in IMPORT.findall(node.value):
                for name in re.findall(r"\w+", names.partition("\n\n")[0].split("\n")[0]):
                    yield f"{module}.{name}"


def found() -> list[tuple[str, str]]:
    """(name, file) for every name of a module, or of something in one, in a string."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    return sorted(
        {
            (name, str(file.relative_to(ROOT)))
            for file in files
            for name in named_in(ast.parse(file.read_text(encoding="utf-8")))
            if NAME.fullmatch(name)
        }
    )


def resolved(name: str) -> object:
    """The module, or what stands in one, that a dotted name means."""
    module, *rest = name.split(".")
    value = importlib.import_module(module)
    for number, part in enumerate(rest, start=1):
        if not hasattr(value, part):
            importlib.import_module(".".join([module, *rest[:number]]))
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("name", "file"), found(), ids=str)
def test_a_name_in_a_string_leads_somewhere(name, file):
    try:
        resolved(name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{file} names {name}: {error}")


def test_such_names_are_found():
    names = {name for name, _ in found()}
    assert len(names) > 15
    assert any(name.endswith(".stages") for name in names), "the registries"
    assert any(name.endswith(".cli") for name in names), "command lines"


PUBLIC = sorted(set(public.__all__) - {"__version__"})


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_home(name):
    assert getattr(public, name).__name__ == name


def test_what_types_see_is_what_is_imported():
    """The lazy homes say the same as the imports for type checkers."""
    tree = ast.parse(Path(public.__file__).read_text(encoding="utf-8"))
    typed = {
        (alias.name, node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name, _ in typed} == set(PUBLIC)
    for name, module in typed:
        assert getattr(importlib.import_module(module), name) is getattr(public, name)


def test_the_program_is_there():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for place in told["project"]["scripts"].values():
        assert callable(resolved(place.replace(":", ".")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    """Of folders that the repository has, as seen from its root, from the page or from tests/."""
    missing = []
    for name in set(FILE.findall(page.read_text(encoding="utf-8"))):
        places = [base / name for base in (ROOT, page.parent, ROOT / "tests")]
        ours = any((base / name.split("/")[0]).is_dir() for base in (ROOT, page.parent))
        if ours and not any(place.exists() for place in places):
            missing.append(name)
    assert not missing or page.name == "CHANGELOG.md", missing
