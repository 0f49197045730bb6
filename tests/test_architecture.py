"""The rules of the house: who may import whom, and in which packages a library is used."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("spaces", "methods", "search")
REST = "*"
"""The modules of a package that its order does not name."""
ORDER = {
    "": PACKAGES,
    "spaces": (
        *("config", "modules", "compression", "blocks", "block_spec"),
        *("networks", "network_spec", REST),
    ),
    "methods": ("core", REST),
    "methods.core": ("config", "runtime", "data", "objective", "training", "synthesis"),
    "methods.core.data": ("base", "formats", "text", "augmentation", "sources", REST),
    "search": (
        *("core", "artifacts", "assembly", "stages", "experiment", "results", "monitoring"),
        *("cluster", "execution", "tuning", "evaluation", "report", "export", "runs"),
        *("driver", "cli"),
    ),
    "search.assembly": ("planner", REST),
    "search.stages": ("core", "ops", "expansion", REST),
    "search.experiment": (REST, "checks", "loading"),
    "search.report": ("core", "pictures", "page", REST),
}
"""Package -> what lies in it, in the order of its imports: each imports only from those before."""
REGISTRIES = (
    "methods",
    "methods.core.data.sources",
    "spaces.blocks",
    "spaces.networks",
    "search.cli",
    "search.export.formats",
    "search.stages",
)
"""Packages in which every module is a plug-in, or a group of commands."""
MAX_MODULES = 16
MAX_LINES = 400
HOMES = {
    "ray": ("search/cluster/", "search/execution/"),
    "ray.tune": ("search/tuning/",),
    "optuna": ("search/tuning/",),
    "mlflow": ("search/monitoring/mlflow/",),
    "pyarrow": ("search/artifacts/", "methods/core/data/formats/"),
    "torch_pruning": ("spaces/compression/",),
    "torchao": ("spaces/compression/",),
    "matplotlib": ("search/report/",),
    "rich": ("search/cli/",),
    "typer": ("search/cli/",),
}
"""Library, or a part with a home of its own -> the packages that may import it."""
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def imported_names(file):
    """The dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(file):
    """The top-level names that a file imports."""
    return {name.split(".")[0] for name in imported_names(file)}


def libraries(file):
    """The entries of ``HOMES`` that a file imports, each name under the longest that fits."""
    for name in imported_names(file):
        parts = name.split(".")
        prefixes = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
        yield from [prefix for prefix in prefixes if prefix in HOMES][:1]


def relative(file):
    return file.relative_to(ROOT).as_posix()


def module_of(file):
    """The dotted name of a file below ``stillhouse``."""
    return relative(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file): file for file in FILES}


def own_imports(file):
    """The modules of the product that a file imports, at its top, in functions and for types."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            own = name.removeprefix("stillhouse.")
            if own != name:
                yield own if own in MODULES else own.rpartition(".")[0]


IMPORTS = {name: sorted(set(own_imports(file))) for name, file in MODULES.items()}


def rank(parts, depth, order):
    """The position in ``order`` of what the name at ``depth`` of a module's path stands for."""
    name = parts[depth] if depth < len(parts) else REST
    return order.index(name if name in order else REST) if REST in order or name in order else -1


def test_there_are_files():
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    """Also imports in functions, which would only hide that they run the other way."""
    parts, wrong = module.split("."), []
    for target in IMPORTS[module]:
        others = target.split(".")
        pairs = zip(parts, others, strict=False)
        depth = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(others)))
        order = ORDER.get(".".join(parts[:depth]), (REST,))
        if rank(others, depth, order) > rank(parts, depth, order):
            wrong.append(target)
    assert not wrong


def test_no_import_runs_in_a_circle():
    others = {module: set(targets) - {module} for module, targets in IMPORTS.items()}
    graphlib.TopologicalSorter(others).prepare()  # raises an error that names the circle


def test_everything_is_imported_as_stillhouse():
    """The three folders are no names of the global namespace: other packages have these too."""
    places = (*PACKAGES, "tests", "benchmarks", "stillhouse")
    files = [file for place in places for file in (ROOT / place).rglob("*.py")]
    assert not [relative(file) for file in files if set(imported(file)) & set(PACKAGES)]


@pytest.mark.parametrize("package", [n for n, f in MODULES.items() if f.name == "__init__.py"])
def test_folders_stay_small(package):
    files = [file for file in MODULES[package].parent.glob("*.py") if file.name != "__init__.py"]
    assert len(files) <= MAX_MODULES or package in REGISTRIES


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_used_in_few_packages(library):
    users = {relative(file) for file in FILES if library in set(libraries(file))}
    assert not {user for user in users if not user.startswith(HOMES[library])}
    assert users, f"nothing imports {library}; strike it from the list"


def test_private_parts_of_ray_are_used_in_one_file():
    """Modules and attributes; only Tune's own are used where Tune is."""
    users = {relative(file) for file in FILES if any(map(is_private_ray, ray_names(file)))}
    assert users == {"search/cluster/private_api.py"}


def ray_names(file):
    """The names below ``ray`` that a file imports or reads."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    attributes = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    return [name for name in (*imported_names(file), *attributes) if name.startswith("ray.")]


def is_private_ray(name):
    return any(part.startswith("_") for part in name.split("."))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_files_stay_small(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_modules_say_what_they_are(file):
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_only_what_is_declared_is_imported():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").lower()
    names = {name for file in FILES for name in imported(file)}
    outside = names - {"stillhouse"} - sys.stdlib_module_names
    called = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
    missing = {n for n in outside if called.get(n, n).lower().replace("_", "-") not in text}
    # pydantic's own core, and what MLflow raises of its migrations, come with their packages.
    assert missing <= {"pydantic-core", "pydantic_core", "alembic", "markupsafe", "click"}


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
    trees = {relative(file): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
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
