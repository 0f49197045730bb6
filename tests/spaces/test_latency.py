"""Latency is measured on a copy, in evaluation mode."""

import pytest
import torch
from torch import nn

from stillhouse.spaces.latency import device_name, measure_latency
from tests.support.networks import CIFAR, build_network


class Recorder(nn.Module):
    """Remembers how it was called, over all its copies."""

    calls: list[tuple] = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        grad = torch.is_grad_enabled()
        self.calls.append((tuple(x.shape), x.dtype, self.weight.dtype, self.training, grad))
        return x * self.weight


def test_latency_is_measured_in_evaluation_mode_on_a_copy():
    module = Recorder().train()
    Recorder.calls.clear()
    found = measure_latency(module, (3, 4, 4), batch=5, precision="bfloat16", warmup=2, repeats=7)
    expected = ((5, 3, 4, 4), torch.bfloat16, torch.bfloat16, False, False)
    assert Recorder.calls == [expected] * 9
    assert module.training
    assert module.weight.dtype == torch.float32
    assert (found.batch, found.precision, found.repeats) == (5, "bfloat16", 7)
    assert found.device == device_name("cpu")
    assert found.median_ms > 0
    assert found.spread_ms >= 0


def test_median_and_quartiles(monkeypatch):
    clock = iter([0, 1, 10, 12, 20, 23, 30, 34, 40, 45])
    monkeypatch.setattr("stillhouse.spaces.latency.time.perf_counter", lambda: next(clock) / 1e3)
    found = measure_latency(nn.Identity(), (1,), warmup=0, repeats=5)
    assert found.median_ms == pytest.approx(3)
    assert found.spread_ms == pytest.approx(2)


def test_one_repeat_has_no_spread():
    with pytest.raises(ValueError, match="2 or more repeats"):
        measure_latency(nn.Identity(), (1,), repeats=1)


def test_a_whole_network_is_measured():
    assert measure_latency(build_network("cnn2"), CIFAR, warmup=1, repeats=3).median_ms > 0


def test_the_processor_has_a_name():
    assert device_name("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_latency_on_a_gpu(precision):
    found = measure_latency(
        build_network("resnet8"), CIFAR, device="cuda", batch=8, precision=precision
    )
    assert found.device == torch.cuda.get_device_name()
    assert found.median_ms > 0
