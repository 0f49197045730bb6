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
            "admission",
            "cluster",
            "dashboard",
            "foundry",
            "nodes",
            "notice",
            "orders",
            "partners",
            "placement",
            "sampler",
            "scheduling",
            "tasks",
            "trial",
            "tuning",
            "waiting",
        )
    },
    "optuna": {"search/study", "search/journal.py"},
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
    # pydantic's own core, and what MLflow raises of its migrations, come with their packages.
    assert missing <= {"pydantic-core", "pydantic_core", "alembic"}


RUNS_CODE = {
    "pickle": {"load", "loads", "Unpickler"},
    "cloudpickle": {"load", "loads"},
    "dill": {"load", "loads"},
    "joblib": {"load"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "pandas": {"read_pickle"},
    "yaml": {"load", "load_all", "full_load", "unsafe_load", "full_load_all", "unsafe_load_all"},
}
"""What makes code or objects of bytes: module -> its functions."""


def runs_code(tree):
    """Every call in a file by which what was read could come to run."""
    called = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            called |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            called |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            first, dot, rest = name.partition(".")
            whole = f"{called.get(first, first)}{dot}{rest}"
            if makes_objects(whole, {w.arg: ast.unparse(w.value) for w in node.keywords}):
                yield whole


def makes_objects(whole, settings):
    """Whether a call of the function ``whole`` with these settings runs what it is given."""
    module, _, function = whole.rpartition(".")
    if whole.removeprefix("builtins.") in ("eval", "exec", "compile", "__import__"):
        return True
    if module == "yaml" and "SafeLoader" in settings.get("Loader", ""):
        return False
    if function in RUNS_CODE.get(module.split(".")[0], ()):
        return True
    if whole == "torch.load":
        return settings.get("weights_only") != "True"
    return settings.get("allow_pickle", "False") != "False"


def test_nothing_that_was_read_is_run():
    """No exception is needed: CIFAR's pickled files are read by torchvision, after its digests."""
    trees = {place(file): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    assert {name: found for name, tree in trees.items() if (found := [*runs_code(tree)])} == {}


@pytest.mark.parametrize(
    "text",
    [
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "import pickle\npickle.loads(data)",
        "import pickle as p\np.load(file)",
        "from pickle import loads as read\nread(data)",
        "import pickle\npickle.Unpickler(file).load()",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import torch\ntorch.load(file)",
        "import torch\ntorch.load(file, weights_only=False)",
        "from torch import load\nload(file)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import numpy as np\nnp.load(file, allow_pickle=trusted)",
        "import pandas\npandas.read_pickle(file)",
    ],
)
def test_the_rule_would_find(text):
    assert list(runs_code(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "network.eval()",
        "import torch\ntorch.load(file, weights_only=True)",
        "import safetensors.torch\nsafetensors.torch.load(data)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nyaml.safe_load(text)",
        "import re\nre.compile(text)",
        "import numpy as np\nnp.load(file)",
        "import json\njson.loads(text)",
    ],
)
def test_the_rule_leaves_alone(text):
    assert not list(runs_code(ast.parse(text)))
