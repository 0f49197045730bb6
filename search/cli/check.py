"""``stillhouse check``: validates an experiment file and warns of likely mistakes."""

from __future__ import annotations

from stillhouse.search.cli.options import FileArgument, JsonOption, SetOption, parse_overrides
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.experiment.checks.cautions import setup_warnings
from stillhouse.search.experiment.initial_points import initial_points
from stillhouse.search.experiment.loading import load_experiment


def check(file: FileArgument, changes: SetOption = None, json: JsonOption = False) -> None:
    """Validate an experiment file; run nothing."""
    experiment = load_experiment(file, parse_overrides(changes))
    if json:
        warned = [
            {"path": warning.path, "message": warning.message}
            for warning in setup_warnings(experiment)
        ]
        result = {"valid": True, "name": experiment.name, "searched": list(experiment.search)}
        print_json({**result, "warnings": warned})
        return
    console.print(f"{file}: valid")
    for warning in setup_warnings(experiment):
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if experiment.search:
        print_table(("searched", "values"), [(p, str(d)) for p, d in experiment.search.items()])
    if experiment.run.start != "sampler":
        console.print(
            "first trials:", *(f"  {start}" for start in initial_points(experiment)), sep="\n"
        )
