"""Check the nodes of a cluster before a search: equal versions, and access to its library.

Nodes that join later are not checked. Their workers raise an error if they cannot see the library's
folder (see ``Library``).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stillhouse.search.artifacts.places import FAIL_FAST_ATTEMPTS, open_filesystem, storage_remedy
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import PACKAGES, connect, disconnect, node_name
from stillhouse.search.cluster.diagnostics import Finding, check_worker
from stillhouse.search.cluster.private_api import available_resources_by_node
from stillhouse.search.core.addresses import for_display
from stillhouse.search.core.provenance import versions
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line

NODE_TIMEOUT_S = 120.0
"""Seconds that a node has to answer; its first worker must unpack the packages."""

_SHARED_ALTERNATIVES = {
    "tracking": "serve MLflow (`mlflow server` beside the head, tracking: http://HOST:5000) "
    "or name a PostgreSQL database",
    "study": "name a PostgreSQL database, or leave it out: a journal in the run's folder",
}
"""Field -> remedy for a store that only one machine can use."""

Versions = Mapping[str, str]
_AnswerT = TypeVar("_AnswerT")


def runtime_versions() -> dict[str, str]:
    """The versions, and the digest of the sources, that all processes of a search must share.

    Local parts of versions are left out: a search may mix torch for CPUs and for GPUs.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: versions()[name].partition("+")[0] for name in ("torch", "ray")},
        "stillhouse": f"sources {_sources_digest()}",
    }


def version_differences(
    driver_versions: Versions, node_versions: Mapping[str, Versions]
) -> list[str]:
    """One line for each version that differs between the driver and some nodes.

    Args:
        driver_versions: the driver's ``runtime_versions()``.
        node_versions: the versions of each node, by the node's name.
    """
    lines = []
    for name, driver_version in driver_versions.items():
        nodes_by_version = defaultdict(list)
        for node, its_versions in node_versions.items():
            if its_versions.get(name) != driver_version:
                nodes_by_version[its_versions.get(name, "nothing")].append(node)
        for version, nodes_with_it in nodes_by_version.items():
            node_list = ", ".join(sorted(nodes_with_it))
            lines.append(
                f"{name} is {version} on {node_list}, and {driver_version} where the search starts"
            )
    return lines


def check_nodes(
    library: str, write_marker: Callable[[str], None], remove_marker: Callable[[str], None]
) -> None:
    """Check every node of the connected cluster.

    Args:
        library: the address of the search's library.
        write_marker: writes an empty file at a path in the library.
        remove_marker: removes that file.

    Raises:
        ConfigError: versions differ, or a node cannot read the library.
    """
    with _marker(write_marker, remove_marker) as path:
        answers = _probe_library(library, path)
    install_hint = "install the same with constraints.txt on all of them"
    problems = [
        Problem("--address", f"{line}; {install_hint}")
        for line in version_differences(
            runtime_versions(), {node: answer[0] for node, answer in answers.items()}
        )
    ]
    reason_by_node = {node: reason for node, (_, reason) in answers.items() if reason}
    if reason_by_node:
        problems.append(Problem("library", unreachable_library_message(library, reason_by_node)))
    if problems:
        raise ConfigError(problems)


def check_stores(stores: Mapping[str, str]) -> None:
    """Check that several machines can use the stores of a search.

    Args:
        stores: field of the experiment -> address of a store besides the library.

    Raises:
        ConfigError: one of them is a SQLite file.
    """
    problems = [
        Problem(
            field,
            f"{for_display(uri)} is a SQLite file, which serves one machine; "
            f"{_SHARED_ALTERNATIVES[field]}",
        )
        for field, uri in stores.items()
        if uri.startswith("sqlite")
    ]
    if problems:
        raise ConfigError(problems)


def unreachable_library_message(library: str, reason_by_node: Mapping[str, str]) -> str:
    """The message for nodes that cannot read the library, each with its reason."""
    node_list, reason = ", ".join(sorted(reason_by_node)), next(iter(reason_by_node.values()))
    if library.startswith("s3://"):
        remedy = storage_remedy(library, reason)
        return f"{node_list} cannot use {for_display(library)}: {reason}; {remedy}"
    return (
        f"{for_display(library)} is a folder that {node_list} does not see; "
        "use s3://BUCKET/PATH, or a folder that all nodes share"
    )


def check_cluster(address: str, library: str, tracking: str) -> dict[str, list[Finding]]:
    """Run the diagnostics on every node of the cluster at ``address``; node -> findings.

    Raises:
        ConfigError: there is no such cluster, or this machine cannot use the library.
    """
    connect(address)
    try:
        store = Library(library)
        with _marker(store.write_marker, store.remove_file) as path:
            answers = run_on_every_node(_check_this_node, library, path, tracking)
    finally:
        disconnect()
    driver_versions, findings_by_node = runtime_versions(), {}
    for node, (answer, reason) in answers.items():
        if answer is None:
            remedy = "see its log below /tmp/ray/session_latest/logs"
            findings_by_node[node] = [Finding("worker", reason, False, remedy)]
            continue
        node_versions, findings = answer
        findings_by_node[node] = [*_version_findings(node_versions, driver_versions), *findings]
    return findings_by_node


@contextlib.contextmanager
def _marker(
    write_marker: Callable[[str], None], remove_marker: Callable[[str], None]
) -> Iterator[str]:
    """The path of a file that is in the library while the block runs."""
    path = f"scratch/.seen-{ray.get_runtime_context().get_job_id()}"
    write_marker(path)
    try:
        yield path
    finally:
        remove_marker(path)


def _version_findings(node_versions: Versions, driver_versions: Versions) -> Iterator[Finding]:
    for name, version in node_versions.items():
        is_same = version == driver_versions[name]
        remedy = f"{driver_versions[name]} here; install the same with constraints.txt on both"
        yield Finding(name, version, is_same, "" if is_same else remedy)


def _check_this_node(
    library: str, marker: str, tracking: str
) -> tuple[dict[str, str], list[Finding]]:
    """Runs on a node: its versions and the findings of its diagnostics."""
    node_id = ray.get_runtime_context().get_node_id()
    (resources,) = [node["Resources"] for node in _nodes() if node["NodeID"] == node_id]
    return runtime_versions(), check_worker(library, marker, tracking, resources.get("GPU", 0.0))


def node_usage() -> list[dict[str, Any]]:
    """The CPUs and GPUs of each node: their number, and how many are in use or reserved."""
    available = available_resources_by_node()
    return [
        {
            "name": node_name(node["NodeManagerAddress"], node["NodeID"]),
            "alive": node["Alive"],
            **_usage_of("CPU", node, available.get(node["NodeID"])),
            **_usage_of("GPU", node, available.get(node["NodeID"])),
        }
        for node in sorted(_nodes(), key=lambda node: not node["Alive"])
    ]


def _usage_of(
    resource: str, node: Mapping[str, Any], available: Mapping[str, float] | None
) -> dict[str, float]:
    total = node["Resources"].get(resource, 0.0)
    num_available = total if available is None else available.get(resource, 0.0)
    name = f"{resource.lower()}s"
    return {name: total, f"{name}_taken": round(total - num_available, 4)}


def alive_node_resources() -> list[dict[str, float]]:
    """The total resources of each node that is alive."""
    return [node["Resources"] for node in _nodes() if node["Alive"]]


def _probe_library(library: str, path: str) -> dict[str, tuple[Versions, str]]:
    """Node -> its versions, and the reason why it cannot read the file (empty if it can)."""
    answers: dict[str, tuple[Versions, str]] = {}
    for node, (answer, reason) in run_on_every_node(_probe_from_node, library, path).items():
        if answer is None:
            raise ConfigError([Problem("--address", f"{node} {reason}")])
        answers[node] = answer
    return answers


def run_on_every_node(
    function: Callable[..., _AnswerT], *args: Any
) -> dict[str, tuple[_AnswerT | None, str]]:
    """Call ``function`` on every node: node -> its result, or None and the reason.

    A node that is lost meanwhile is left out.
    """
    task: Any = ray.remote(num_cpus=0, max_retries=1)(function)
    pending = {}
    for node in _nodes():
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
            # Ray lists a lost machine for half a minute.
            if not any(node["NodeID"] == node_id and node["Alive"] for node in _nodes()):
                continue
            reason = str(error).strip().splitlines()[-1]
            answers[name] = None, f"cannot run this project: {reason}"
    return answers


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def _probe_from_node(library: str, path: str) -> tuple[dict[str, str], str]:
    """Runs on a node: its versions, and the reason why it cannot read the file (or empty)."""
    reason = ""
    try:
        system, root = open_filesystem(library, FAIL_FAST_ATTEMPTS)
        with system.open_input_stream(f"{root}/{path}"):
            pass
    except (OSError, ValueError) as error:
        reason = first_line(error)
    return runtime_versions(), reason


def _sources_digest() -> str:
    """The digest of the packages that this process imports, wherever they come from."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        folder = Path(importlib.import_module(name).__path__[0])
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
