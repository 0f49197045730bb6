"""A machine's checkup: whether versions, devices, disk, library and tracking are fit for a search.

The same on the machine of the driver and, as a task, on every node of a cluster.
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
from stillhouse.search.core.addresses import hushed, shown
from stillhouse.search.core.provenance import versions
from stillhouse.search.monitoring.mlflow import is_server, reachable
from stillhouse.search.results.run_folder import runs_root
from stillhouse.spaces.config.problems import ConfigError

LEAST_DISK = 2.0
"""GiB that must be free for packages, data and spilled objects."""
GIB = 1024.0**3


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do if that is not good."""

    what: str
    found: str
    good: bool = True
    remedy: str = ""

    def plain(self) -> dict[str, str | bool]:
        return {"what": self.what, "found": self.found, "good": self.good, "remedy": self.remedy}


def here(library: str, tracking: str) -> list[Finding]:
    """This machine, as a driver of searches."""
    return [
        *(Finding(name, version) for name, version in versions().items()),
        *machine(),
        _tried(f"library {shown(library)}", lambda: Library(library).check_writable()),
        _tried(f"runs {runs_root()}", _probe_runs),
        _tried(f"tracking {shown(tracking)}", lambda: reachable(tracking)),
    ]


def machine(gpus: float | None = None) -> list[Finding]:
    """What a search needs of any machine.

    Args:
        gpus: how many Ray counts on this node; None where it does not count.
    """
    findings = [Finding("processors", f"{os.cpu_count()} cores, {_memory():.1f} GiB of memory")]
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    told = [f"{device.name}, {device.total_memory / GIB:.1f} GiB" for device in devices]
    lacking = gpus is not None and len(devices) < gpus
    remedy = "torch sees fewer GPUs than Ray counts: driver, or a torch for CPUs" if lacking else ""
    findings.append(Finding("device", "; ".join(told) or "cpu", not lacking, remedy))
    findings.append(_tried("torchvision operators", _operators))
    free = shutil.disk_usage(tempfile.gettempdir()).free / GIB
    few = free < LEAST_DISK
    remedy = (
        f"needs {LEAST_DISK:g} GiB; remove old sessions and packages below /tmp/ray" if few else ""
    )
    findings.append(Finding("free disk", f"{free:.1f} GiB", not few, remedy))
    return findings


def worker(library: str, mark: str, tracking: str, gpus: float) -> list[Finding]:
    """This machine as a node: ``mark`` is a file that the driver left in the library."""
    return [
        *machine(gpus),
        _tried(f"library {shown(library)}", lambda: _use(library, mark)),
        _heard(tracking),
    ]


def _use(library: str, mark: str) -> None:
    """See the driver's file, and write, read and delete one."""
    place = Library(library, found=True)
    if not place.marked(mark):
        raise OSError(
            f"{platform.node()} sees another folder of that name; use s3://BUCKET/PATH, or a "
            "folder that all nodes share"
        )
    own = f"scratch/.probe-{uuid.uuid4().hex[:8]}"
    place.mark(own)
    if not place.marked(own):
        raise OSError("what was written is not there to be read")
    place.remove_file(own)


def _heard(tracking: str) -> Finding:
    """Whether MLflow answers here; nothing is wrong if not, since only drivers speak to it."""
    what = f"tracking {shown(tracking)}"
    if not is_server(tracking):
        return Finding(what, "only the driver uses it")
    found = _tried(what, lambda: reachable(tracking))
    return found if found.good else Finding(what, "no answer; only the driver needs one")


def _tried(what: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except ConfigError as error:
        return Finding(what, hushed(error.problems[0].message), False)
    except (OSError, RuntimeError) as error:
        return Finding(what, hushed(str(error)), False)
    return Finding(what, "works")


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def _operators() -> None:
    """torchvision's compiled operators load only beside the torch they were built with."""
    import torchvision

    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0])
    torchvision.ops.nms(boxes, scores, 0.5)


def _probe_runs() -> None:
    root: Path = runs_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass
