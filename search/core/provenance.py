"""Provenance of a result: versions, git revision and device."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of the packages that affect results, and the git revision of the working folder."""
    names = ("torch", "torchvision", "ray", "optuna", "mlflow", "pyarrow", "numpy", "stillhouse")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
        "git": _revision(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return completed.stdout.strip()


def _here(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "versions": dict(versions())}


@functools.cache
def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [
                line.partition(":")[2].strip() for line in lines if line.startswith("model name")
            ]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
