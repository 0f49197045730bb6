"""Diagnostics of one machine: versions, devices, disk, library and tracking.

The same checks run on the machine of the driver and, in a task, on every node of a cluster.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import for_display, scrub
from stillhouse.search.core.provenance import versions
from stillhouse.search.monitoring.mlflow import check_reachable, is_server
from stillhouse.search.results.run_folder import runs_root
from stillhouse.spaces.config.problems import ConfigError

MIN_FREE_DISK_GIB = 2.0
"""GiB that must be free for packages, data and spilled objects."""
GIB = 1024.0**3


@dataclass(frozen=True)
class Finding:
    """The result of one check, with a remedy if the check failed."""

    subject: str
    value: str
    is_ok: bool = True
    remedy: str = ""

    def plain(self) -> dict[str, str | bool]:
        return {
            "what": self.subject,
            "found": self.value,
            "good": self.is_ok,
            "remedy": self.remedy,
        }


def check_driver(library: str, tracking: str) -> list[Finding]:
    """Check this machine as a driver of searches."""
    return [
        *(Finding(name, version) for name, version in versions().items()),
        *check_machine(),
        _run_check(f"library {for_display(library)}", lambda: Library(library).check_writable()),
        _run_check(f"runs {runs_root()}", _check_runs_writable),
        _run_check(f"tracking {for_display(tracking)}", lambda: check_reachable(tracking)),
    ]


def check_machine(gpus: float | None = None) -> list[Finding]:
    """Check what a search needs on any machine.

    Args:
        gpus: number of GPUs that Ray counts on this node; None without Ray.
    """
    findings = [Finding("processors", f"{os.cpu_count()} cores, {_memory():.1f} GiB of memory")]
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    descriptions = [f"{device.name}, {device.total_memory / GIB:.1f} GiB" for device in devices]
    lacks_gpus = gpus is not None and len(devices) < gpus
    remedy = "torch sees fewer GPUs than Ray counts: check the driver, or torch is a build for CPUs"
    remedy = remedy if lacks_gpus else ""
    findings.append(Finding("device", "; ".join(descriptions) or "cpu", not lacks_gpus, remedy))
    findings.append(_run_check("torchvision operators", _check_operators))
    free = shutil.disk_usage(tempfile.gettempdir()).free / GIB
    is_low = free < MIN_FREE_DISK_GIB
    remedy = f"needs {MIN_FREE_DISK_GIB:g} GiB; remove old sessions and packages below /tmp/ray"
    remedy = remedy if is_low else ""
    findings.append(Finding("free disk", f"{free:.1f} GiB", not is_low, remedy))
    return findings


def check_worker(library: str, marker: str, tracking: str, gpus: float) -> list[Finding]:
    """Check this machine as a node; ``marker`` is a file that the driver has put in the library."""
    return [
        *check_machine(gpus),
        _run_check(f"library {for_display(library)}", lambda: _check_library(library, marker)),
        _check_tracking(tracking),
    ]


def _check_library(library: str, marker: str) -> None:
    """Find the driver's file; write, find and delete another file."""
    store = Library(library, must_exist=True)
    if not store.has_marker(marker):
        raise OSError(
            f"{platform.node()} sees another folder of that name; use s3://BUCKET/PATH, or a "
            "folder that all nodes share"
        )
    own_marker = f"scratch/.probe-{uuid.uuid4().hex[:8]}"
    store.write_marker(own_marker)
    if not store.has_marker(own_marker):
        raise OSError("a file that was written cannot be read")
    store.remove_file(own_marker)


def _check_tracking(tracking: str) -> Finding:
    """Whether MLflow answers this machine; a node may do without, since only drivers use it."""
    subject = f"tracking {for_display(tracking)}"
    if not is_server(tracking):
        return Finding(subject, "only the driver uses it")
    finding = _run_check(subject, lambda: check_reachable(tracking))
    return finding if finding.is_ok else Finding(subject, "no answer; only the driver needs one")


def _run_check(subject: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except ConfigError as error:
        return Finding(subject, scrub(error.problems[0].message), False)
    except (OSError, RuntimeError) as error:
        return Finding(subject, scrub(str(error)), False)
    return Finding(subject, "works")


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def _check_operators() -> None:
    """Run an operator of torchvision; it loads only with the torch that it was built for."""
    import torchvision

    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0])
    torchvision.ops.nms(boxes, scores, 0.5)


def _check_runs_writable() -> None:
    root: Path = runs_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass
