"""Check of a normalisation: mean and std have one value each, or one for each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence


def normalisation_error(
    mean: Sequence[float], std: Sequence[float], channels: int | None = None
) -> str:
    """The mistake in a normalisation, as the rest of a message; empty if there is none.

    Args:
        channels: channels of the images, if known.
    """
    if len(mean) != len(std):
        return f"needs as many of mean ({len(mean)}) as of std ({len(std)})"
    if not std:
        return "needs one mean and one std for each channel, found none"
    if channels is not None and len(mean) not in (1, channels):
        return f"has {len(mean)} values of mean and std, and images {channels} channels"
    if not all(map(math.isfinite, (*mean, *std))):
        return "needs finite numbers in mean and std"
    return "" if min(std) > 0 else f"needs std above 0, found {min(std):g}"
