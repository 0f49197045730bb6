"""What tests of all packages share."""

import importlib
import os
import sys

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test draws depends neither on the tests before it nor on who shares its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def importable(tmp_path_factory):
    """Makes modules of some source that this process and its workers can import."""
    folder = tmp_path_factory.mktemp("plugins")
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

        def make(name, source):
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
            importlib.invalidate_caches()
            made.append(name)
            return importlib.import_module(name)

        yield make
    for name in made:
        del sys.modules[name]
