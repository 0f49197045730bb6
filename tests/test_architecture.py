"""The rules of the house: who may import whom, and what lives in how few files."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("spaces", "methods", "search")
MAY_IMPORT = {"spaces": {"spaces"}, "methods": {"spaces", "methods"}, "search": set(PACKAGES)}
HOMES = {
    "ray": {
        f"search/{name}.py"
        for name in (
            "cluster",
            "dashboard",
            "foundry",
            "nodes",
            "notice",
            "orders",
            "partners",
            "sampler",
            "scheduling",
            "tasks",
            "trial",
            "tuning",
        )
    },
    "optuna": {"search/study.py", "search/journal.py"},
    "mlflow": {"search/tracking/"},
    "torch_pruning": {"spaces/pruning.py"},
    "torchao": {"spaces/quantised.py"},
    "pyarrow": {
        "search/library/",
        "methods/core/data/parquet_images.py",
        "methods/core/data/tables.py",
    },
    "matplotlib": {"search/report/"},
    "rich": {"search/cli/"},
    "typer": {"search/cli/"},
}
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
MOST_LINES = 400


def imported(file):
    """The top-level names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def place(file):
    return file.relative_to(ROOT).as_posix()


def test_there_are_files():
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)


@pytest.mark.parametrize("file", FILES, ids=place)
def test_imports_run_one_way(file):
    allowed = MAY_IMPORT[file.relative_to(ROOT).parts[0]]
    assert {name for name in imported(file) if name in PACKAGES} <= allowed


@pytest.mark.parametrize("library", HOMES)
def test_a_library_lives_in_few_files(library):
    users = {place(file) for file in FILES if library in set(imported(file))}
    strangers = {user for user in users if not user.startswith(tuple(HOMES[library]))}
    assert not strangers
    assert users, f"nothing imports {library}; strike it from the list"


@pytest.mark.parametrize("file", FILES, ids=place)
def test_files_stay_small(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=place)
def test_modules_say_what_they_are(file):
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_only_what_is_declared_is_imported():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").lower()
    names = {name for file in FILES for name in imported(file)}
    outside = names - set(PACKAGES) - sys.stdlib_module_names
    called = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
    missing = {n for n in outside if called.get(n, n).lower().replace("_", "-") not in text}
    # pydantic's own core, and what the model's signature is made of, come with their packages.
    assert missing <= {"pydantic-core", "pydantic_core"}
