"""Failures of a stage or a trial, in one line."""

from __future__ import annotations

import torch

from stillhouse.spaces.config.problems import plain_lines


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a program, not its machine, ran out of memory: torch on a CPU has no type for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def reason(error: BaseException) -> str:
    """One line that says what went wrong, out-of-memory in plain words."""
    lines = plain_lines(str(error))
    if is_out_of_memory(error):
        remedy = "a smaller batch_size or network, or fewer at once (run.concurrent), needs less"
        return ". ".join(["out of memory; " + remedy, *lines[:1]])
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
