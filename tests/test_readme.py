"""The examples of the README work as they stand there; ``test_docs`` has its links and commands."""

import ast
import importlib
import re
from pathlib import Path

from stillhouse.search.experiment.loading import load_experiment

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_experiment_is_valid(tmp_path):
    (text,) = blocks("yaml")
    file = tmp_path / "experiment.yaml"
    file.write_text(text.replace("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"))
    experiment = load_experiment(file)
    assert set(experiment.search) == {
        "assistants.networks",
        "assistants.links.*.objective.soft_targets.temperature",
        "student.objective.soft_targets.weight",
        "student.training.lr",
    }


def test_the_python_example_imports_public_names():
    (text,) = blocks("python")
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = importlib.import_module(node.module)
        assert {alias.name for alias in node.names} <= set(module.__all__)


def test_it_is_read_in_five_minutes():
    assert len(README.splitlines()) <= 150
