"""The command line is a promise: its commands and options change knowingly or not at all.

After a change that is meant: ``python tests/test_commands.py`` writes ``commands.json`` anew.
"""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import stillhouse
from stillhouse.search.cli.app import COMMANDS, app

FROZEN = Path(__file__).with_name("commands.json")
HEAVY = {"torch", "ray", "mlflow", "optuna", "pyarrow", "pandas", "matplotlib", "scipy", "sklearn"}
HEAVY |= {"torchvision", "numpy", "pydantic", "sqlalchemy", "yaml", "PIL"}


def loaded():
    """Every command with its own arguments and options."""
    group = typer.main.get_command(app)
    return {name: group.load_command(name) for name in COMMANDS}


def described(command, name):
    """Every command as one line: its arguments, then its options."""
    if hasattr(command, "commands"):
        lines = [described(inner, f"{name} {word}") for word, inner in command.commands.items()]
        return {line: text for each in lines for line, text in each.items()}
    arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
    options = [o for p in command.params if p.param_type_name == "option" for o in p.opts]
    return {name: " ".join([*arguments, *sorted(options)])}


def all_described():
    lines = [described(command, name) for name, command in loaded().items()]
    return {line: text for each in lines for line, text in each.items()}


def modules_loaded_by(*words):
    """The top-level modules that the command line has loaded when it ends."""
    code = (
        f"import sys; sys.argv = {['stillhouse', *words]!r}\n"
        "from stillhouse.search.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES ")[2].split())


def test_commands_and_options_are_as_they_were():
    assert all_described() == json.loads(FROZEN.read_text(encoding="utf-8"))


def test_commands_say_what_they_do():
    def helps(command):
        yield command.help
        for inner in getattr(command, "commands", {}).values():
            yield from helps(inner)

    assert all(all(helps(command)) for command in loaded().values())


def test_the_list_of_commands_has_their_own_help_lines():
    own = {
        name: " ".join(command.help.partition("\n\n")[0].split())
        for name, command in loaded().items()
    }
    assert own == {name: help_line for name, (_, help_line) in COMMANDS.items()}


@pytest.mark.parametrize("words", [("--help",), ("--version",), ()], ids=str)
def test_help_loads_no_heavy_module(words):
    if not words:  # exit status 2, as of every group
        assert CliRunner().invoke(app, []).exit_code == 2
        return
    modules = modules_loaded_by(*words)
    assert "typer" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_own_help(name):
    result = CliRunner().invoke(app, [name, "-h"])
    assert result.exit_code == 0
    assert loaded()[name].help.partition("\n")[0][:40] in result.output


def test_the_version_is_that_of_the_package():
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout == f"stillhouse {stillhouse.__version__}\n"
    assert stillhouse.__version__ == metadata.version("stillhouse")


def test_an_unknown_command_is_refused_with_the_nearest():
    result = CliRunner().invoke(app, ["lanch"])
    assert result.exit_code == 2
    assert "launch" in result.output


if __name__ == "__main__":
    text = json.dumps(all_described(), indent=1, sort_keys=True)
    FROZEN.write_text(text + "\n", encoding="utf-8")
