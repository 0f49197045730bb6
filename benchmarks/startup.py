"""Processor time of the command line, compared with an interpreter that does nothing.

    help:   `stillhouse --help`, within 0.4 seconds
    check:  `stillhouse check experiments/quickstart.yaml`, within 2.5 seconds

Processor time is the user and system time of the process, the median over several runs. The
commands take turns with `python -c pass`, so other load affects all of them. The ratio is the
lowest of allowed time divided by measured time: 1 or more meets the target.

    python benchmarks/startup.py [--runs 7]

Exit status 1 if a command takes longer than allowed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _outcome import arguments, outcome

ROOT = Path(__file__).parents[1]
COMMAND_LINE = ("-m", "stillhouse.search.cli")
COMMANDS = {
    "pass": ("-c", "pass"),
    "help": (*COMMAND_LINE, "--help"),
    "check": (*COMMAND_LINE, "check", str(ROOT / "experiments" / "quickstart.yaml")),
}
ALLOWED_S = {"help": 0.4, "check": 2.5}
TARGET = 1.0


def processor_seconds(command: tuple[str, ...], folder: str) -> float:
    """User and system time of one run of the interpreter with these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = os.times()
    subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def main() -> int:
    """Every command in turn, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    args = arguments(parser, runs=1)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS.values():
            processor_seconds(command, folder)  # files are read once, bytecode is written
        for _ in range(args.runs):
            for name, command in COMMANDS.items():
                seconds[name].append(processor_seconds(command, folder))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    idle = medians["pass"] or 0.01  # a clock tick
    print(f"{'':6} {'median s':>9} {'longest s':>9} {'allowed s':>9} {'x pass':>7}")
    for name, median in medians.items():
        allowed = f"{ALLOWED_S[name]:9.1f}" if name in ALLOWED_S else f"{'':9}"
        print(f"{name:6} {median:9.2f} {max(seconds[name]):9.2f} {allowed} {median / idle:7.0f}")
    ratio = min(allowed / medians[name] for name, allowed in ALLOWED_S.items())
    return outcome("startup", ratio, TARGET, args)


if __name__ == "__main__":
    sys.exit(main())
