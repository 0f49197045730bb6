"""How latency is measured, as an experiment file asks for it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.cost import device_name, measure_latency
from stillhouse.spaces.modules.network import Shape


class LatencySettings(Config):
    """How latency is measured, where a goal, a limit or a budget asks for it."""

    device: str = setting("cpu", "torch device on the worker: cpu, cuda")
    batch: int = setting(1, "images at once", ge=1)
    precision: Literal["float32", "bfloat16"] = setting("float32", "numbers computed with")
    threads: int = setting(1, "threads on a cpu", ge=1)
    hardware: str | None = setting(
        None, "its name in keys; none means as this machine calls its own device"
    )

    def identity(self) -> dict[str, Any]:
        """What decides a measured latency, apart from the network: figures of different hardware
        or versions do not compare."""
        return {
            **self.plain(),
            "threads": self.threads if self.device == "cpu" else None,
            "hardware": self.hardware or _hardware_name(self.device),
            "torch": torch.__version__,
        }

    def measure(self, network: nn.Module, shape: Shape) -> dict[str, float]:
        """``latency_ms`` of a network, or of some blocks for a feature of ``shape``, and its
        interquartile range, ``latency_spread_ms``.

        Raises:
            RuntimeError: this worker has no such device.
        """
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise RuntimeError(
                f"latency on {self.device} was asked for and this worker has no GPU; set "
                "run.resources.gpu, or run.latency.device: cpu"
            )
        threads = self.threads if self.device == "cpu" else None
        latency = measure_latency(
            network,
            shape,
            device=self.device,
            batch=self.batch,
            precision=self.precision,
            threads=threads,
        )
        return {"latency_ms": latency.median_ms, "latency_spread_ms": latency.spread_ms}


def _hardware_name(device: str) -> str:
    """The hardware's name; the device's own where this machine has none."""
    is_available = not device.startswith("cuda") or torch.cuda.is_available()
    return device_name(device) if is_available else device
