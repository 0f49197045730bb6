"""Which number format ``auto`` is."""

from __future__ import annotations

import pytest
import torch

from stillhouse.methods.core.runtime import precision
from stillhouse.methods.core.runtime.precision import autocast, autocast_dtype, has_native_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_native_and_images_are_large_enough(monkeypatch, native):
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda device: native and device == CPU)
    large = torch.bfloat16 if native else torch.float32
    assert autocast_dtype("auto", CPU, (3, 32, 32)) == large
    assert autocast_dtype("auto", CPU, (1, 16, 16)) == large
    assert autocast_dtype("auto", CPU, (1, 8, 8)) == torch.float32


def test_what_is_named_is_used():
    assert autocast_dtype("float32", CPU, (3, 32, 32)) == torch.float32
    assert autocast_dtype("bfloat16", CPU, (1, 8, 8)) == torch.bfloat16


def test_the_processor_is_asked(monkeypatch):
    for has, native in [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert has_native_bfloat16(CPU) is native
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not has_native_bfloat16(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert has_native_bfloat16(torch.device("cuda:0"))


def test_autocast_changes_the_format_and_only_that():
    layer, x = torch.nn.Linear(4, 4), torch.rand(2, 4)
    with autocast(torch.float32, CPU):
        assert layer(x).dtype == torch.float32
    with autocast(torch.bfloat16, CPU):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32
