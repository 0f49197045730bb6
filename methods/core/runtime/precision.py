"""Number formats of the forward passes.

``auto`` is bfloat16 autocast for images of at least 16x16 pixels on a processor with native
bfloat16: CUDA from compute capability 8.0, x86 CPUs with AVX512-BF16 or AMX. On one core with
AVX512-BF16 (training steps, batch 128, channels last) bfloat16 is faster than float32 by these
factors: resnet20 1.6, cnn10 1.9, cnn2 1.7, vgg8 1.8 at 32x32; lenet5 1.2 at 28x28. It is slower for
cnn2 at 8x8 (0.8), because of the conversions, and for mobilenet_v2 at 32x32 (0.9): set ``float32``
there.
"""

from __future__ import annotations

import torch

from stillhouse.methods.core.config.training import Precision
from stillhouse.spaces.modules.network import Shape

_MIN_PIXELS = 16 * 16


def autocast_dtype(precision: Precision, device: torch.device, shape: Shape) -> torch.dtype:
    """The format of ``precision`` on this device, for images of ``shape``."""
    if precision == "auto":
        is_faster = shape[1] * shape[2] >= _MIN_PIXELS and has_native_bfloat16(device)
        return torch.bfloat16 if is_faster else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16; otherwise torch emulates it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """A context in which operations run in ``dtype`` where that is safe; float32 has no effect."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
