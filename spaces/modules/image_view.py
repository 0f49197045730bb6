"""Image view: the grey or coarse version of an image that a network takes as its input.

Teacher and student can take two modalities of one example. The teacher takes the full image; the
student takes only the view that is available where it is deployed (cross-modal distillation,
Gupta, Hoffman and Malik 2016).
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network, Shape

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601); their sum is 1."""

ChannelValues = tuple[float, ...]


class ImageView(Config):
    """The transform of an image before the first block of a network.

    A view is linear and leaves constant images constant. So it may follow the normalisation, if
    all channels that it mixes are normalised equally.
    """

    grey: bool = setting(False, "the luminance alone, one channel of three", Choice((False, True)))
    size: int | None = setting(
        None, "side in pixels to which areas are averaged; none means all pixels", ge=1
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.grey and self.size is None:
            raise ValueError("leaves the whole image; say grey: true, a size, or leave it out")
        return self

    def shape(self, image: Shape) -> Shape:
        """The shape of the view of an image.

        Raises:
            ConfigError: the image has no colours, or fewer pixels than ``size``.
        """
        channels, height, width = image
        if self.grey and channels != len(LUMINANCE):
            message = f"needs images of 3 channels, found {channels}; leave it out"
            raise ConfigError([Problem("sees.grey", message)])
        if self.size is not None and self.size > min(height, width):
            message = f"must be at most the images' {height}x{width} pixels, found {self.size}"
            raise ConfigError([Problem("sees.size", message)])
        side = (height, width) if self.size is None else (self.size, self.size)
        return (1 if self.grey else channels, *side)

    def normalisation(
        self, mean: ChannelValues, std: ChannelValues
    ) -> tuple[ChannelValues, ChannelValues]:
        """Mean and std of the view, from mean and std of the full image.

        The mean of a grey view is the mean luminance. The std assumes fully correlated channels.
        """
        if not self.grey:
            return mean, std
        return (_luminance(mean),), (_luminance(std),)

    def apply_to(self, network: Network) -> Network:
        """A network for full images that applies the view before its first block.

        All blocks are shared with ``network``, whose input is the view.
        """
        name = network.names[0]
        first_block = nn.Sequential(ViewTransform(self.grey, self.size), network.blocks[name])
        return network.swap(0, 1, first_block, name)

    @property
    def label(self) -> str:
        """``grey-16``."""
        return "-".join(["grey"] * self.grey + [str(self.size)] * (self.size is not None))


class ViewTransform(nn.Module):
    """[N, C, H, W] -> [N, 1 if ``grey`` else C, size, size]: the view of images; no weights."""

    luminance: Tensor

    def __init__(self, grey: bool, size: int | None) -> None:
        super().__init__()
        self.grey, self.size = grey, size
        weights = torch.tensor(LUMINANCE).view(1, -1, 1, 1)
        self.register_buffer("luminance", weights, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if self.grey:
            x = (x * self.luminance).sum(dim=1, keepdim=True)
        return x if self.size is None else F.adaptive_avg_pool2d(x, self.size)


def _luminance(channels: ChannelValues) -> float:
    return sum(weight * x for weight, x in zip(LUMINANCE, channels, strict=True))
