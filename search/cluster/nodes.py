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

from stillhouse.search.artifacts.places import FAIL_FAST_ATTEMPTS, open_filesystem, storage_remedy
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import PACKAGES, connect, node_name
from stillhouse.search.cluster.diagnostics import Finding, check_worker
from stillhouse.search.core.addresses import for_display
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line

NODE_TIMEOUT_S = 120.0
"""Seconds a node has to answer; its first worker is given the packages meanwhile."""

_SHARED_ALTERNATIVES = {
    "tracking": "serve MLflow (`mlflow server` beside the head, tracking: http://HOST:5000) "
    "or name a PostgreSQL database",
    "study": "name a PostgreSQL database, or leave it out: a journal in the run's folder",
}
"""What to do instead, by field."""

Versions = Mapping[str, str]
_AnswerT = TypeVar("_AnswerT")


def runtime_versions() -> dict[str, str]:
    """What decides whether this process understands another: versions, and this project's sources.

    Local parts of versions are left out: torch for a CPU and for a GPU are the same torch.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in ("torch", "ray")},
        "stillhouse": f"sources {_sources_digest()}",
    }


def version_differences(
    driver_versions: Versions, node_versions: Mapping[str, Versions]
) -> list[str]:
    """One line for every version that some nodes have and the driver has not.

    Args:
        here: the driver's :func:`runtime_versions`.
        nodes: those of every node, by its address.
    """
    lines = []
    for name, driver_version in driver_versions.items():
        nodes_by_version = defaultdict(list)
        for node, versions in node_versions.items():
            if versions.get(name) != driver_version:
                nodes_by_version[versions.get(name, "nothing")].append(node)
        for version, nodes_with_it in nodes_by_version.items():
            node_list = ", ".join(sorted(nodes_with_it))
            lines.append(
                f"{name} is {version} on {node_list}, and {driver_version} where the search starts"
            )
    return lines


def check_nodes(
    library: str, write_marker: Callable[[str], None], remove_marker: Callable[[str], None]
) -> None:
    """Ask every node of the cluster this process is connected to.

    Args:
        library: the address of the search's library.
        mark: writes an empty file at a path in the library.
        unmark: removes it.

    Raises:
        ConfigError: versions differ, or a node does not reach the library.
    """
    path = f"scratch/.seen-{ray.get_runtime_context().get_job_id()}"
    write_marker(path)
    try:
        answers = _probe_library(library, path)
    finally:
        remove_marker(path)
    install_hint = "install the same with constraints.txt on all of them"
    problems = [
        Problem("--address", f"{line}; {install_hint}")
        for line in version_differences(
            runtime_versions(), {node: versions for node, (versions, _) in answers.items()}
        )
    ]
    reason_by_node = {node: reason for node, (_, reason) in answers.items() if reason}
    if reason_by_node:
        problems.append(Problem("library", unreachable_library_message(library, reason_by_node)))
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
        Problem(
            field,
            f"{for_display(uri)} is a SQLite file, which serves one machine; {_SHARED_ALTERNATIVES[field]}",
        )
        for field, uri in stores.items()
        if uri.startswith("sqlite")
    ]
    if problems:
        raise ConfigError(problems)


def unreachable_library_message(library: str, reason_by_node: Mapping[str, str]) -> str:
    """What to say of nodes that do not reach the library, each with its reason."""
    node_list, reason = ", ".join(sorted(reason_by_node)), next(iter(reason_by_node.values()))
    if library.startswith("s3://"):
        return f"{node_list} cannot use {for_display(library)}: {reason}; {storage_remedy(library, reason)}"
    return (
        f"{for_display(library)} is a folder that {node_list} does not see; "
        "use s3://BUCKET/PATH, or a folder that all nodes share"
    )


def check_cluster(address: str, library: str, tracking: str) -> dict[str, list[Finding]]:
    """The checkup of every node of the cluster at ``address``, by the node's name.

    Raises:
        ConfigError: there is no such cluster, or the library cannot be used from here.
    """
    connect(address)
    try:
        store = Library(library)
        marker = f"scratch/.seen-{ray.get_runtime_context().get_job_id()}"
        store.write_marker(marker)
        try:
            answers = run_on_every_node(_check_this_node, library, marker, tracking)
        finally:
            store.remove_file(marker)
    finally:
        ray.shutdown()
    driver_versions, findings_by_node = runtime_versions(), {}
    for node, (answer, reason) in answers.items():
        if answer is None:
            remedy = "see its log below /tmp/ray/session_latest/logs"
            findings_by_node[node] = [Finding("worker", reason, False, remedy)]
            continue
        versions, findings = answer
        findings_by_node[node] = [*_version_findings(versions, driver_versions), *findings]
    return findings_by_node


def _version_findings(versions: Versions, driver_versions: Versions) -> Iterator[Finding]:
    for name, version in versions.items():
        is_same = version == driver_versions[name]
        remedy = (
            ""
            if is_same
            else f"{driver_versions[name]} here; install the same with constraints.txt on both"
        )
        yield Finding(name, version, is_same, remedy)


def _check_this_node(
    library: str, marker: str, tracking: str
) -> tuple[dict[str, str], list[Finding]]:
    """On a node: its facts and its checkup."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    node_id = ray.get_runtime_context().get_node_id()
    (resources,) = [node["Resources"] for node in nodes if node["NodeID"] == node_id]
    return runtime_versions(), check_worker(library, marker, tracking, resources.get("GPU", 0.0))


def node_usage() -> list[dict[str, Any]]:
    """The nodes of the cluster: what each has, and what of it is taken or kept for a trial."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    state: Any = ray._private.state
    available = state.available_resources_per_node()
    return [
        {
            "name": node_name(node["NodeManagerAddress"], node["NodeID"]),
            "alive": node["Alive"],
            **_usage_of(
                "cpus", node["Resources"].get("CPU", 0.0), available.get(node["NodeID"]), "CPU"
            ),
            **_usage_of(
                "gpus", node["Resources"].get("GPU", 0.0), available.get(node["NodeID"]), "GPU"
            ),
        }
        for node in sorted(nodes, key=lambda node: not node["Alive"])
    ]


def _usage_of(
    name: str, total: float, available: Mapping[str, float] | None, resource: str
) -> dict[str, float]:
    num_available = total if available is None else available.get(resource, 0.0)
    return {name: total, f"{name}_taken": round(total - num_available, 4)}


def _probe_library(library: str, path: str) -> dict[str, tuple[Versions, str]]:
    """Address of a node -> its facts, and why it does not see the file; empty if it does."""
    answers: dict[str, tuple[Versions, str]] = {}
    for node, (answer, reason) in run_on_every_node(_probe_from_node, library, path).items():
        if answer is None:
            raise ConfigError([Problem("--address", f"{node} {reason}")])
        answers[node] = answer
    return answers


def run_on_every_node(
    function: Callable[..., _AnswerT], *args: Any
) -> dict[str, tuple[_AnswerT | None, str]]:
    """Have every node of the cluster answer: what it says, or none and why.

    A node that is lost meanwhile is left out.
    """
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    task: Any = ray.remote(num_cpus=0, max_retries=1)(function)
    pending = {}
    for node in nodes:
        if node["Alive"]:
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = node_name(node["NodeManagerAddress"], node["NodeID"])
            pending[name] = node["NodeID"], task.options(scheduling_strategy=affinity).remote(*args)
    answers: dict[str, tuple[_AnswerT | None, str]] = {}
    for name, (node_id, answer) in pending.items():
        try:
            answers[name] = ray.get(answer, timeout=NODE_TIMEOUT_S), ""
        except ray.exceptions.GetTimeoutError:
            message = f"started no worker within {NODE_TIMEOUT_S:g} s; see `ray status`"
            answers[name] = None, message
        except ray.exceptions.RayError as error:
            if node_id not in _alive_node_ids():  # Ray lists a lost machine for half a minute
                continue
            reason = str(error).strip().splitlines()[-1]
            answers[name] = None, f"cannot run this project: {reason}"
    return answers


def _alive_node_ids() -> set[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}


def _probe_from_node(library: str, path: str) -> tuple[dict[str, str], str]:
    """On a node: its facts, and why the file in the library is not seen from it."""
    reason = ""
    try:
        system, root = open_filesystem(library, FAIL_FAST_ATTEMPTS)
        with system.open_input_stream(f"{root}/{path}"):
            pass
    except (OSError, ValueError) as error:
        reason = first_line(error)
    return runtime_versions(), reason


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"


def _sources_digest() -> str:
    """Of the packages as this process would import them, wherever they came from."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        folder = Path(importlib.import_module(name).__path__[0])
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
