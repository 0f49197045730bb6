"""What the command line tells of a method comes from its own file, of every method."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.search.cli.app import app
from stillhouse.search.cli.methods import method_description


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_tells_its_paper_formula_fields_and_needs(name):
    told, method = method_description(name), METHODS.load(name)
    assert told["about"].endswith(".")
    assert "=" in told["formula"]
    assert any(year in " ".join(told["paper"]) for year in map(str, range(1990, 2030)))
    assert [row["setting"] for row in told["fields"]] == list(method.Config.model_fields)
    assert all(row["meaning"] for row in told["fields"])
    assert ("a teacher" in told["needs"]) == method.needs_teacher
    assert {p["preset"] for p in told["presets"]} == set(method.presets)
    output = CliRunner().invoke(app, ["methods", name]).output
    assert told["formula"].splitlines()[0] in output
    assert all(preset in output for preset in method.presets)


def test_all_methods_in_a_line_each():
    output = CliRunner().invoke(app, ["methods"]).output
    assert all(name in output for name in METHODS.names())


def test_a_method_there_is_none_of_names_the_nearest():
    error = CliRunner().invoke(app, ["methods", "soft_target"]).exception
    assert "did you mean 'soft_targets'" in str(error)
