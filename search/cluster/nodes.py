"""Whether the nodes of a cluster can work on a search: the same versions, and its library in sight.

Nodes that join later run what the cluster's own setup put on them; what they make of a folder
that they do not see is refused where a worker opens the library
(:class:`stillhouse.search.artifacts.store`).
"""

from __future__ import annotations

import hashlib
import importlib
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stillhouse.search.artifacts.places import ALOOF, open_place, remedy
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import PACKAGES, connect, node_name
from stillhouse.search.cluster.diagnostics import Finding, worker
from stillhouse.search.core.addresses import shown
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line

PATIENCE = 120.0
"""Seconds a node has to answer; its first worker is given the packages meanwhile."""

_SERVED = {
    "tracking": "serve MLflow (`mlflow server` beside the head, tracking: http://HOST:5000) "
    "or name a PostgreSQL database",
    "study": "name a PostgreSQL database, or leave it out: a journal in the run's folder",
}
"""What to do instead, by field."""

Facts = Mapping[str, str]
_Answer = TypeVar("_Answer")


def facts() -> dict[str, str]:
    """What decides whether this process understands another: versions, and this project's sources.

    Local parts of versions are left out: torch for a CPU and for a GPU are the same torch.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in ("torch", "ray")},
        "stillhouse": f"sources {_digest()}",
    }


def differences(here: Facts, nodes: Mapping[str, Facts]) -> list[str]:
    """One line for every version that some nodes have and the driver has not.

    Args:
        here: the driver's :func:`facts`.
        nodes: those of every node, by its address.
    """
    lines = []
    for name, own in here.items():
        others = defaultdict(list)
        for node, told in nodes.items():
            if told.get(name) != own:
                others[told.get(name, "nothing")].append(node)
        for version, where in others.items():
            places = ", ".join(sorted(where))
            lines.append(f"{name} is {version} on {places}, and {own} where the search starts")
    return lines


def check_nodes(library: str, mark: Callable[[str], None], unmark: Callable[[str], None]) -> None:
    """Ask every node of the cluster this process is connected to.

    Args:
        library: the address of the search's library.
        mark: writes an empty file at a path in the library.
        unmark: removes it.

    Raises:
        ConfigError: versions differ, or a node does not reach the library.
    """
    path = f"scratch/.seen-{ray.get_runtime_context().get_job_id()}"
    mark(path)
    try:
        answers = _ask(library, path)
    finally:
        unmark(path)
    remedy_ = "install the same with constraints.txt on all of them"
    problems = [
        Problem("--address", f"{line}; {remedy_}")
        for line in differences(facts(), {node: told for node, (told, _) in answers.items()})
    ]
    unseen = {node: reason for node, (_, reason) in answers.items() if reason}
    if unseen:
        problems.append(Problem("library", out_of_sight(library, unseen)))
    if problems:
        raise ConfigError(problems)


def check_stores(stores: Mapping[str, str]) -> None:
    """Refuse what serves one machine only, for a search that several work on.

    Args:
        stores: field of the experiment -> address of what the driver writes besides the library.

    Raises:
        ConfigError: one of them is a SQLite file.
    """
    problems = [
        Problem(field, f"{shown(uri)} is a SQLite file, which serves one machine; {_SERVED[field]}")
        for field, uri in stores.items()
        if uri.startswith("sqlite")
    ]
    if problems:
        raise ConfigError(problems)


def out_of_sight(library: str, unseen: Mapping[str, str]) -> str:
    """What to say of nodes that do not reach the library, each with its reason."""
    places, reason = ", ".join(sorted(unseen)), next(iter(unseen.values()))
    if library.startswith("s3://"):
        return f"{places} cannot use {shown(library)}: {reason}; {remedy(library, reason)}"
    return (
        f"{shown(library)} is a folder that {places} does not see; "
        "use s3://BUCKET/PATH, or a folder that all nodes share"
    )


def examine(address: str, library: str, tracking: str) -> dict[str, list[Finding]]:
    """The checkup of every node of the cluster at ``address``, by the node's name.

    Raises:
        ConfigError: there is no such cluster, or the library cannot be used from here.
    """
    connect(address)
    try:
        place = Library(library)
        mark = f"scratch/.seen-{ray.get_runtime_context().get_job_id()}"
        place.mark(mark)
        try:
            answers = ask_every(_examined, library, mark, tracking)
        finally:
            place.remove_file(mark)
    finally:
        ray.shutdown()
    own, found = facts(), {}
    for node, (answer, reason) in answers.items():
        if answer is None:
            remedy = "see its log below /tmp/ray/session_latest/logs"
            found[node] = [Finding("worker", reason, False, remedy)]
            continue
        told, findings = answer
        found[node] = [*_compared(told, own), *findings]
    return found


def _compared(told: Facts, own: Facts) -> Iterator[Finding]:
    for name, version in told.items():
        same = version == own[name]
        remedy = "" if same else f"{own[name]} here; install the same with constraints.txt on both"
        yield Finding(name, version, same, remedy)


def _examined(library: str, mark: str, tracking: str) -> tuple[dict[str, str], list[Finding]]:
    """On a node: its facts and its checkup."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    here = ray.get_runtime_context().get_node_id()
    (resources,) = [node["Resources"] for node in nodes if node["NodeID"] == here]
    return facts(), worker(library, mark, tracking, resources.get("GPU", 0.0))


def roll() -> list[dict[str, Any]]:
    """The nodes of the cluster: what each has, and what of it is taken or kept for a trial."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    state: Any = ray._private.state
    free = state.available_resources_per_node()
    return [
        {
            "name": node_name(node["NodeManagerAddress"], node["NodeID"]),
            "alive": node["Alive"],
            **_taken("cpus", node["Resources"].get("CPU", 0.0), free.get(node["NodeID"]), "CPU"),
            **_taken("gpus", node["Resources"].get("GPU", 0.0), free.get(node["NodeID"]), "GPU"),
        }
        for node in sorted(nodes, key=lambda node: not node["Alive"])
    ]


def _taken(
    name: str, total: float, free: Mapping[str, float] | None, kind: str
) -> dict[str, float]:
    left = total if free is None else free.get(kind, 0.0)
    return {name: total, f"{name}_taken": round(total - left, 4)}


def _ask(library: str, path: str) -> dict[str, tuple[Facts, str]]:
    """Address of a node -> its facts, and why it does not see the file; empty if it does."""
    answers: dict[str, tuple[Facts, str]] = {}
    for place, (answer, reason) in ask_every(_look, library, path).items():
        if answer is None:
            raise ConfigError([Problem("--address", f"{place} {reason}")])
        answers[place] = answer
    return answers


def ask_every(
    question: Callable[..., _Answer], *args: Any
) -> dict[str, tuple[_Answer | None, str]]:
    """Have every node of the cluster answer: what it says, or none and why.

    A node that is lost meanwhile is left out.
    """
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    ask: Any = ray.remote(num_cpus=0, max_retries=1)(question)
    asked = {}
    for node in nodes:
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            place = node_name(node["NodeManagerAddress"], node["NodeID"])
            asked[place] = node["NodeID"], ask.options(scheduling_strategy=there).remote(*args)
    answers: dict[str, tuple[_Answer | None, str]] = {}
    for place, (node_id, answer) in asked.items():
        try:
            answers[place] = ray.get(answer, timeout=PATIENCE), ""
        except ray.exceptions.GetTimeoutError:
            why = f"started no worker within {PATIENCE:g} s; see `ray status`"
            answers[place] = None, why
        except ray.exceptions.RayError as error:
            if node_id not in _living():  # Ray lists a lost machine for half a minute
                continue
            reason = str(error).strip().splitlines()[-1]
            answers[place] = None, f"cannot run this project: {reason}"
    return answers


def _living() -> set[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}


def _look(library: str, path: str) -> tuple[dict[str, str], str]:
    """On a node: its facts, and why the file in the library is not seen from it."""
    reason = ""
    try:
        system, root = open_place(library, ALOOF)
        with system.open_input_stream(f"{root}/{path}"):
            pass
    except (OSError, ValueError) as error:
        reason = first_line(error)
    return facts(), reason


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"


def _digest() -> str:
    """Of the packages as this process would import them, wherever they came from."""
    total = hashlib.sha256()
    for name in PACKAGES:
        folder = Path(importlib.import_module(name).__path__[0])
        for file in sorted(folder.rglob("*.py")):
            total.update(file.relative_to(folder).as_posix().encode())
            total.update(file.read_bytes())
    return total.hexdigest()[:12]
