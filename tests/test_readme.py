"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
import torch
import typer

from search.cli.app import app
from search.loading import load_experiment
from spaces.network import Output

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_experiment_is_valid(tmp_path):
    (text,) = [block for block in blocks("yaml") if "name: assistants" in block]
    file = tmp_path / "experiment.yaml"
    file.write_text(text.replace("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"))
    experiment = load_experiment(file)
    assert set(experiment.search) == {
        "assistants.networks",
        "assistants.links.*.objective.soft_targets.temperature",
        "student.objective.soft_targets.weight",
        "student.training.lr",
    }


def test_the_neighbourhoods_are_valid(tmp_path):
    (text,) = [block for block in blocks("yaml") if "do: neighbourhoods" in block]
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    kinds = [stage.work.kind for stage in load_experiment(file).recipe().student.lineage()]
    assert kinds.count("assemble") == 1
    assert kinds.count("neighbourhood") > 60


def test_the_compression_is_valid(tmp_path):
    (text,) = [block for block in blocks("yaml") if "do: compress" in block]
    file = tmp_path / "experiment.yaml"
    file.write_text(f"name: small\ndata: {{source: digits, validation: 0.25}}\n{text}")
    kinds = [stage.work.kind for stage in load_experiment(file).recipe().student.lineage()]
    assert kinds == ["train", "prune", "train", "quantise", "train"]


def test_the_method_is_one():
    scope = {}
    (text,) = [block for block in blocks("python") if "LogitMatching" in block]
    exec(compile(text, "README.md", "exec"), scope)
    matching = scope["LogitMatching"]
    method = matching(matching.Config(scale=2.0), None)
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0]])
    loss = method(Output(student, {}), [Output(teacher, {})], None, None)
    assert loss.item() == pytest.approx((0.0**2 + 2.0**2) / 2)


def test_the_commands_exist():
    known = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"`stillhouse ([a-z]+)", README))
    assert named
    assert named <= known


def test_files_it_names_exist():
    root = Path(__file__).parents[1]
    folders = "search|methods|spaces|tests|benchmarks|experiments|docs"
    named = re.findall(rf"(?<![\w/])(?:{folders})/[\w/.-]+\.\w+", README)
    assert named
    assert [name for name in named if not (root / name).exists()] == []
