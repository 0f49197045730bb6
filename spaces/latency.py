"""Latency of networks: the settings of an experiment file, and the measurement."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.modules.network import Network, Shape

LatencyPrecision = Literal["float32", "bfloat16", "float16"]


class LatencySettings(Config):
    """How latency is measured for a goal, a limit or a budget."""

    device: str = setting("cpu", "torch device on the worker: cpu, cuda")
    batch: int = setting(1, "images at once", ge=1)
    precision: Literal["float32", "bfloat16"] = setting("float32", "numbers computed with")
    threads: int = setting(1, "threads on a cpu", ge=1)
    hardware: str | None = setting(
        None, "its name in keys; none means as this machine calls its own device"
    )

    def identity(self) -> dict[str, Any]:
        """Everything besides the network that decides a latency, hardware and versions included."""
        return {
            **self.plain(),
            "threads": self.threads if self.device == "cpu" else None,
            "hardware": self.hardware or _hardware_name(self.device),
            "torch": torch.__version__,
        }

    def measure(self, network: nn.Module, shape: Shape) -> dict[str, float]:
        """``latency_ms`` and its interquartile range ``latency_spread_ms``.

        ``network`` is a network, or some blocks for a feature of ``shape``.

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
    """The hardware's name; the device string if this machine has no such device."""
    is_available = not device.startswith("cuda") or torch.cuda.is_available()
    return device_name(device) if is_available else device


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of ``batch`` images: median and interquartile range."""

    median_ms: float
    spread_ms: float
    batch: int
    precision: LatencyPrecision
    device: str
    """The hardware's name: latencies of different hardware are not comparable."""
    repeats: int


def measure_latency(
    network: nn.Module,
    shape: Shape,
    *,
    device: str = "cpu",
    batch: int = 1,
    precision: LatencyPrecision = "float32",
    threads: int | None = None,
    warmup: int = 10,
    repeats: int = 50,
) -> Latency:
    """Time a network, or some of its blocks, for images (or a feature) of ``shape``.

    A copy is measured in evaluation mode without gradients, with weights and images in
    ``precision``. A GPU uses its own clock. A CPU uses ``threads`` threads (None: torch's present
    number). ``warmup`` passes are not counted.
    """
    if repeats < 2:
        raise ValueError(f"quartiles need 2 or more repeats, found {repeats}")
    dtype = getattr(torch, precision)
    model = deepcopy(network).to(device=device, dtype=dtype).eval()
    images = torch.rand((batch, *shape), device=device, dtype=dtype)
    forward_kwargs = {"taps": ()} if isinstance(model, Network) else {}
    with torch.no_grad(), _num_threads(threads):
        times = _measure_times(partial(model, images, **forward_kwargs), images, warmup, repeats)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(median, high - low, batch, precision, device_name(device), repeats)


def time_calls(
    run: Callable[[], Any], threads: int = 1, warmup: int = 10, repeats: int = 50
) -> float:
    """Median milliseconds of a call on a CPU with ``threads`` of torch's threads.

    ``warmup`` calls are not counted.
    """
    with torch.no_grad(), _num_threads(threads):
        return statistics.median(_measure_times(run, torch.empty(0), warmup, repeats))


@contextmanager
def _num_threads(threads: int | None) -> Iterator[None]:
    """Set torch's number of threads inside the context; None leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure_times(
    run: Callable[[], Any], reference: Tensor, warmup: int, repeats: int
) -> list[float]:
    """Milliseconds of each repeat."""
    for _ in range(warmup):
        run()
    if reference.is_cuda:
        return _measure_times_on_gpu(run, reference.device, repeats)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _measure_times_on_gpu(
    run: Callable[[], Any], device: torch.device, repeats: int
) -> list[float]:
    times = []
    with torch.cuda.device(device):
        for _ in range(repeats):
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            # Without it the queue hides the time that the CPU needs to launch kernels.
            torch.cuda.synchronize()
            start.record()
            run()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop))
    return times


def device_name(device: str | torch.device) -> str:
    """The name of the hardware behind a torch device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
