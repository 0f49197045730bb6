"""The pages under ``docs``: the Python in them runs, without Ray."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs"
SNIPPETS = [
    (page.stem, code)
    for page in sorted(FOLDER.glob("*.md"))
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[page for page, _ in SNIPPETS])
def test_what_a_page_shows_runs(page, code, tmp_path):
    file = tmp_path / "shown.py"
    end = "import sys\nassert not {'ray', 'optuna', 'mlflow'} & set(sys.modules)\n"
    file.write_text(f"import torch\ntorch.set_num_threads(1)\n{code}\n{end}", encoding="utf-8")
    root = str(FOLDER.parent)
    run = f"import sys, runpy; sys.path.insert(0, {root!r}); runpy.run_path({str(file)!r})"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{page}: {done.stderr}"
