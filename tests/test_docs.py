"""README, SECURITY and the pages under ``docs``: links, commands, files and examples are real."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
import typer

from stillhouse.search.cli.app import app
from stillhouse.search.core.metrics import GOAL_METRICS
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.modules.network import Output

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(FOLDER.glob("*.md"))]
GENERATOR = runpy.run_path(str(FOLDER / "experiment_file.py"))


def text_of(page):
    return (FOLDER / f"{page}.md").read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def prose(page):
    """The page without its examples and its code."""
    fenced = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    indented = re.sub(r"^    .*$", "", fenced, flags=re.MULTILINE)
    return re.sub(r"``.*?``|`[^`]*`", "", indented)


def headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"^(#+) (.*)$", text, flags=re.MULTILINE)


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_a_page_has_one_title(page):
    assert [level for level, _ in headings(page)].count("#") == 1


@each_page
def test_a_page_is_plain_markdown(page):
    assert re.findall(r"</?[a-zA-Z!][^>]*>", prose(page)) == []


@each_page
def test_links_are_relative_and_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    wrong = [link for link in links if not leads_somewhere(page, link)]
    assert wrong == []


def leads_somewhere(page, link):
    name, _, section = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if ":" in name or name.startswith("/") or not target.exists():
        return False
    anchors = {GENERATOR["anchor"](title) for _, title in headings(target)} if section else set()
    return not section or section in anchors


def test_the_list_of_pages_is_complete():
    listed = set(re.findall(r"\]\(([^)]*)\)", text_of("README")))
    assert {page.name for page in FOLDER.glob("*.md")} - {"README.md"} <= listed


@each_page
def test_commands_that_it_names_exist(page):
    known = set(typer.main.get_command(app).commands)
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|^    |')stillhouse ([a-z]+)", text, flags=re.MULTILINE)
    assert set(named) <= known


@each_page
def test_files_that_it_names_exist(page):
    folders = "search|methods|spaces|tests|benchmarks|experiments|docs"
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w/])(?:{folders})/[\w/.-]+\.\w+", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_of_the_experiment_file_is_up_to_date():
    assert text_of("experiment-file") == GENERATOR["page"](), "run make docs"


def test_the_page_of_the_experiment_file_names_every_figure():
    rows = set(re.findall(r"^\| `(\w+)` \|", text_of("experiment-file"), flags=re.MULTILINE))
    assert set(GOAL_METRICS) <= rows


def test_neighbourhoods_are_valid(tmp_path):
    (text,) = [block for block in blocks("neighbourhoods", "yaml") if "do: assemble" in block]
    kinds = stages_of(tmp_path, text)
    assert kinds.count("assemble") == 1
    assert kinds.count("neighbourhood") > 60


def test_compression_is_valid(tmp_path):
    (text,) = [block for block in blocks("compression", "yaml") if "do: compress" in block]
    text = f"name: small\ndata: {{source: digits, validation: 0.25}}\n{text}"
    assert stages_of(tmp_path, text) == ["train", "prune", "train", "quantise", "train"]


def test_dataset_distillation_is_valid(tmp_path):
    first, _ = blocks("dataset-distillation", "yaml")
    assert stages_of(tmp_path, first) == ["distil_data", "train"]


def stages_of(folder, text):
    file = folder / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    return [
        stage.operation.kind for stage in load_experiment(file).stage_graph().student.ancestors()
    ]


def test_the_new_method_is_one():
    scope = {}
    (text,) = [block for block in blocks("contributing", "python") if "LogitMatching" in block]
    exec(compile(text, "contributing.md", "exec"), scope)
    matching = scope["LogitMatching"]
    method = matching(matching.Config(scale=2.0), None)
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0]])
    loss = method(Output(student, {}), [Output(teacher, {})], None, None)
    assert loss.item() == pytest.approx((0.0**2 + 2.0**2) / 2)


def test_the_new_sampler_is_one():
    scope = {"__name__": "sobol"}
    (text,) = [block for block in blocks("contributing", "python") if "Sobol" in block]
    exec(compile(text, "contributing.md", "exec"), scope)
    sampler = scope["Sobol"]
    assert sampler.kind == "sobol"
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        assert type(sampler(scramble=False).build(0, 8)).__name__ == "QMCSampler"


SNIPPETS = [(page.stem, code) for page in PAGES[2:] for code in blocks(page.stem, "python")]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[page for page, _ in SNIPPETS])
def test_what_a_page_shows_runs_without_ray(page, code, tmp_path):
    file = tmp_path / "shown.py"
    end = "import sys\nassert not {'ray', 'optuna', 'mlflow'} & set(sys.modules)\n"
    file.write_text(f"import torch\ntorch.set_num_threads(1)\n{code}\n{end}", encoding="utf-8")
    run = f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(file)!r})"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{page}: {done.stderr}"
