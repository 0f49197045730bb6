"""Precision: which number format the networks compute in.

``auto`` is bfloat16 autocast where the processor has it natively: CUDA from compute capability
8.0, x86 CPUs with AVX512-BF16 or AMX, and images of at least 16x16 pixels. Measured on one core
with AVX512-BF16 (training steps, batch 128, channels last), bfloat16 is this much faster than
float32: resnet20 1.6, cnn10 1.9, cnn2 1.7, vgg8 1.8 at 32x32; lenet5 1.2 at 28x28; but cnn2 0.8
at 8x8, where the conversions cost more than the convolutions save. mobilenet_v2 (0.9) is the one
family that loses at 32x32: name ``float32`` there.
"""

from __future__ import annotations

import torch

from stillhouse.methods.core.config.training import Precision
from stillhouse.spaces.modules.network import Shape

_MIN_PIXELS = 16 * 16


def autocast_dtype(precision: Precision, device: torch.device, shape: Shape) -> torch.dtype:
    """The format that ``precision`` stands for on this device, for images of ``shape``."""
    if precision == "auto":
        is_faster = shape[1] * shape[2] >= _MIN_PIXELS and has_native_bfloat16(device)
        return torch.bfloat16 if is_faster else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the processor itself multiplies bfloat16, rather than torch emulating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Forward passes inside run in ``dtype`` where that is safe; float32 changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
