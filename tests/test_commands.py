"""The command line is a promise: its commands and options change knowingly or not at all.

After a change that is meant: ``python tests/test_commands.py`` writes ``commands.json`` anew.
"""

import json
from pathlib import Path

import typer.main

from stillhouse.search.cli.app import app

FROZEN = Path(__file__).with_name("commands.json")


def described(command, name=""):
    """Every command as one line: its arguments, then its options."""
    if hasattr(command, "commands"):
        found = [described(inner, f"{name} {word}") for word, inner in command.commands.items()]
        return {line: text for lines in found for line, text in sorted(lines.items())}
    arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
    options = [o for p in command.params if p.param_type_name == "option" for o in p.opts]
    return {name.strip(): " ".join([*arguments, *sorted(options)])}


def test_commands_and_options_are_as_they_were():
    found = described(typer.main.get_command(app))
    assert found == json.loads(FROZEN.read_text(encoding="utf-8"))


def test_commands_say_what_they_do():
    def helps(command):
        yield command.help
        for inner in getattr(command, "commands", {}).values():
            yield from helps(inner)

    assert all(helps(typer.main.get_command(app)))


if __name__ == "__main__":
    text = json.dumps(described(typer.main.get_command(app)), indent=1, sort_keys=True)
    FROZEN.write_text(text + "\n", encoding="utf-8")
