"""What a network costs: parameters, FLOPs, bytes, and its measured latency."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stillhouse.spaces.compression.quantisation import packed_state_dict, quantised_layers
from stillhouse.spaces.modules.cuts import blank_input
from stillhouse.spaces.modules.network import Network, Shape, eval_mode
from stillhouse.spaces.network_spec import NetworkSpec

LatencyPrecision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Costs:
    """``parameters``, ``flops`` of one image's forward pass, ``bytes`` of all stored tensors, as
    integers where they are quantised.

    FLOPs are torch's: a multiplication and its addition count as two, and only convolutions and
    matrix products count. What papers call FLOPs or MAdds is often half of it.
    """

    parameters: int
    flops: int
    bytes: int

    def plain(self) -> dict[str, float]:
        """As the figures of a record."""
        return {name: float(value) for name, value in asdict(self).items()}


def compute_costs(network: nn.Module, shape: Shape) -> Costs:
    """The costs of a network for images of ``shape``, or of some of its blocks for a feature.

    Where there are no weights (on the meta device) shapes alone pass through; else one blank image
    does. Heads beside a network's chain teach others, and are no part of what it costs.
    """
    if isinstance(network, Network) and network.heads:
        network = network.with_heads({})
    with eval_mode(network), torch.no_grad(), _FlopCounter() as counter:
        network(blank_input(shape, [network]))
    stored_tensors = chain(network.parameters(), network.buffers())
    if quantised_layers(network):
        stored_tensors = chain(packed_state_dict(network).values())
    return Costs(
        parameters=sum(p.numel() for p in network.parameters()),
        flops=counter.flops,
        bytes=sum(t.numel() * t.element_size() for t in stored_tensors),
    )


class _FlopCounter(TorchDispatchMode):
    """Sums torch's own formulas over all that runs inside.

    ``torch.utils.flop_counter.FlopCounterMode`` gives the same sums, and loads torch's compiler
    for it: a second or more, of every process that starts.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch asks, and loads its compiler to keep it away if told so."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        elif func.overloadpacket.__name__ in _RECURRENT_KERNELS:
            self.flops += _recurrent_flops(args)
        return result


_RECURRENT_KERNELS = ("mkldnn_rnn_layer", "_cudnn_rnn")
"""Kernels of a whole recurrent layer, for which torch has no formula."""


def _recurrent_flops(args: Any) -> int:
    """Every weight matrix meets every step once. The input is [steps, N, features]."""
    steps, batch, _ = args[0].shape
    # cuDNN takes one list of tensors, oneDNN the weights of inputs and states by themselves.
    tensors = args[1] if isinstance(args[1], list | tuple) else args[1:3]
    weights = sum(tensor.numel() for tensor in tensors if tensor.dim() == 2)
    return int(2 * steps * batch * weights)


def network_costs(spec: Any, shape: Shape, classes: int) -> Costs:
    """The costs of a network that an experiment names.

    Raises:
        ConfigError: no such network, or one that does not fit the shape.
    """
    parsed = NetworkSpec.parse(spec)
    return _spec_costs(replace(parsed, label=""), shape, classes)


@lru_cache(maxsize=4096)
def _spec_costs(spec: NetworkSpec, shape: Shape, classes: int) -> Costs:
    return compute_costs(spec.build_for_shapes(shape, classes), shape)


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of ``batch`` images: median and interquartile range."""

    median_ms: float
    spread_ms: float
    batch: int
    precision: LatencyPrecision
    device: str
    """The hardware's name: figures from different hardware do not compare."""
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

    A copy is measured, in evaluation mode and without gradients, weights and images in
    ``precision``; on a GPU by its own clock, on a processor by so many ``threads`` (none: as many
    as torch has now). ``warmup`` passes are not counted.
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
    """Median milliseconds of a call on a processor, with so many of torch's threads; ``warmup``
    calls are not counted."""
    with torch.no_grad(), _num_threads(threads):
        return statistics.median(_measure_times(run, torch.empty(0), warmup, repeats))


@contextmanager
def _num_threads(threads: int | None) -> Iterator[None]:
    """So many threads for a while."""
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
            # Without it the queue hides what the processor spends on launching kernels.
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
