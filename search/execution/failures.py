"""Describe the failure of a stage or a trial in one line."""

from __future__ import annotations

import torch

from stillhouse.spaces.config.problems import plain_lines


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the program, not its machine, ran out of memory; torch has no type for it on CPUs."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def reason(error: BaseException) -> str:
    """The error in one line, with a remedy if memory ran out."""
    lines = plain_lines(str(error))
    if is_out_of_memory(error):
        remedy = "a smaller batch_size or network, or fewer at once (run.concurrent), needs less"
        return ". ".join(["out of memory; " + remedy, *lines[:1]])
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
