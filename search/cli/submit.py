"""``--submit``: runs a search as a job of the cluster, which outlives this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.search.cli.show import console, print_json
from stillhouse.search.cluster.jobs import RayJob, launch_job, resume_job
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.spaces.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from stillhouse.search.cluster.dashboard import ClusterDashboard

START_TIMEOUT = 120.0
"""Seconds to wait for the name of a job's run; the job continues afterwards."""

SubmitOption = Annotated[
    bool, typer.Option("--submit", help="Run as a job of the cluster, which outlives this machine.")
]


def submit_launch(experiment: Experiment, address: str | None, inline: bool, json: bool) -> None:
    """Submit a launch, and print the next commands."""
    dashboard = _open_dashboard(address, inline)
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        job, tracking = launch_job(experiment, Path(folder))
        submitted = dashboard.submit(job)
    if not json:
        console.print(f"library   {experiment.library}", markup=False)
        console.print(f"tracking  {tracking} (as the head sees it)", markup=False)
    _print_job(dashboard, submitted, job, str(address), json)


def submit_resume(name: str, trials: int, address: str | None, inline: bool, json: bool) -> None:
    """Submit a resume or an extension of a run on the head, and print the next commands."""
    job = resume_job(name, trials)
    dashboard = _open_dashboard(address, inline)
    _print_job(dashboard, dashboard.submit(job), job, str(address), json)


def _open_dashboard(address: str | None, inline: bool) -> ClusterDashboard:
    if inline or not address:
        message = "needs the cluster's --address (HOST:6379, auto or http://HOST:8265), no --inline"
        raise ConfigError([Problem("--submit", message)])
    from stillhouse.search.cluster.dashboard import ClusterDashboard

    return ClusterDashboard(address)


def _print_job(
    dashboard: ClusterDashboard, submitted: str, job: RayJob, address: str, json: bool
) -> None:
    """Wait for the name of the job's run, and print it; Ctrl-C ends the wait, not the job."""
    from stillhouse.search.cluster.dashboard import run_name_in

    if not json:
        console.print(f"job       {submitted} on {dashboard.url}", markup=False)
        console.print("waiting for its start; Ctrl-C leaves it running", style="dim")
    state, logs = "PENDING", ""
    try:
        state, logs = dashboard.wait_for_start(submitted, START_TIMEOUT)
    except KeyboardInterrupt:
        console.print()
    run = run_name_in(logs)
    has_failed = state in ("FAILED", "STOPPED")
    if json:
        print_json({"job": submitted, "state": state, "run": run, "dashboard": dashboard.url})
    elif has_failed:
        console.print(f"the job has {state.lower()}; its last lines:", style="red")
        console.print("\n".join(logs.strip().splitlines()[-10:]), markup=False)
    else:
        console.print(f"run       {run or 'not known yet'}", markup=False)
        console.print(
            f"its status      stillhouse status {run or job.name} --address {address}\n"
            f"its output      ray job logs --address {dashboard.url} --follow {submitted}\n"
            f"stop it         ray job stop --address {dashboard.url} {submitted}\n"
            f"continue it     stillhouse resume {run or job.name} --address {address} --submit",
            markup=False,
        )
    if has_failed:
        raise typer.Exit(1)
