"""What is installed: a wheel, beside another maker's ``spaces`` and a user's own modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import ray
import yaml

from stillhouse.search.cluster.connection import package_folders

ROOT = Path(__file__).parents[1]
PACKAGES = ("search", "methods", "spaces")
NOT_OURS = "raise ImportError('this is not a module of Stillhouse')\n"
EXPERIMENT = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 60, "validation": 0.2},
    "stages": {
        "student": {
            "network": {"cnn2": {"width": 0.25}},
            "objective": {"cross_entropy": {}},
            "training": {"epochs": 1},
        }
    },
    "search": {"student.training.lr": "declared"},
    "goal": {"maximize": "student.val_accuracy"},
    "run": {"trials": 1, "repeats": {"top": 0, "seeds": 1}, "baselines": False},
}
MODULE = [sys.executable, "-m", "stillhouse.search.cli"]
SCRIPT = [sys.executable, "{site}/bin/stillhouse"]


def pip(*words):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the checkout, since a build writes into its folder."""
    copy, dist = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("stillhouse", *PACKAGES):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(dist), str(copy))
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel, installed into an empty folder that has a package ``spaces`` of others."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--target", str(folder), str(wheel))
    (folder / "spaces").mkdir()
    (folder / "spaces" / "__init__.py").write_text(NOT_OURS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder, with modules named like two of our folders."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "methods").mkdir()
    for name in ("search.py", "methods/__init__.py"):
        (folder / name).write_text(NOT_OURS, encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    return folder


@pytest.fixture
def call(site, place, monkeypatch):
    """Runs a command in the user's folder with the installed files; returns what it prints."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.delenv("STILLHOUSE_RUNS", raising=False)

    def called(program, *words):
        command = [word.format(site=site) for word in program]
        done = subprocess.run(
            [*command, *words], cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return called


def test_a_wheel_holds_the_three_packages_and_nothing_beside_them(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"stillhouse"}
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    assert {f"stillhouse/{file.relative_to(ROOT).as_posix()}" for file in files} <= names
    assert "stillhouse/py.typed" in names


def test_the_installed_files_are_used(call, site):
    modules = ", ".join(f"stillhouse.{name}" for name in PACKAGES)
    code = f"import {modules}; print(*(m.__file__ for m in ({modules},)), sep='\\n')"
    files = call([sys.executable, "-c", code]).splitlines()
    assert files == [str(site / "stillhouse" / name / "__init__.py") for name in PACKAGES]


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_commands_work_beside_modules_of_the_same_names(call, program):
    assert "launch" in call(program, "--help")
    assert call(program, "--version").startswith("stillhouse ")
    assert "tiny.yaml: valid" in call(program, "check", "tiny.yaml")


def test_a_search_runs_from_the_wheel(call, place):
    assert "resnet20" in call(MODULE, "networks")
    launched = call(SCRIPT, "launch", "tiny.yaml", "--inline")
    assert "best configuration" in launched
    assert list(place.glob("**/best.yaml"))


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_of_an_installed_search_use_the_wheel(call):
    assert "best configuration" in call(SCRIPT, "launch", "tiny.yaml", "--set", "name=with_ray")


@pytest.mark.slow
def test_the_other_spaces_may_be_installed_over_it(site, call):
    """The ``spaces`` of the package index; its files and ours lie side by side."""
    shutil.rmtree(site / "spaces")
    pip("install", "--no-deps", "--target", str(site), "spaces")
    assert (site / "spaces").is_dir()
    assert "resnet20" in call(MODULE, "networks")


@pytest.mark.ray
def test_a_cluster_gets_the_packages_of_the_driver(tmp_path, monkeypatch):
    """Also from a checkout, where ``stillhouse/`` holds links to the three folders."""

    def shipped():
        return [path for path in sys.path if "py_modules_files" in path]

    ray.init(num_cpus=1, include_dashboard=False, runtime_env={"py_modules": package_folders()})
    try:
        (folder,) = ray.get(ray.remote(shipped).remote())
        monkeypatch.setenv("PYTHONPATH", folder)
        code = "import stillhouse.search.cli.app as app; print(app.__file__)"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        found = {
            f"{name}/{file.relative_to(Path(folder, 'stillhouse', name)).as_posix()}"
            for name in PACKAGES
            for file in Path(folder, "stillhouse", name).rglob("*.py")
        }
    finally:
        ray.shutdown()
    assert done.stdout.strip() == f"{folder}/stillhouse/search/cli/app.py"
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    assert found == {file.relative_to(ROOT).as_posix() for file in files}
