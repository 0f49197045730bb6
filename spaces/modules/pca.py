"""PCA projections: a feature on its leading principal channels, for narrower students."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn


class PCAProject(nn.Module):
    """Projects a feature [N, C, H, W] to its first c principal channels [N, c, H, W]: B (h - m).

    Nothing is trained. Rows of ``basis`` [c, C] are orthonormal; ``mean`` [C] is the feature's.
    """

    basis: Tensor
    mean: Tensor

    def __init__(self, basis: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis.clone())
        self.register_buffer("mean", mean.clone())

    @classmethod
    def empty(cls, num_components: int, channels: int) -> Self:
        """A projection of zeros, whose tensors are loaded later."""
        return cls(torch.zeros(num_components, channels), torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.basis.to(x.dtype)[:, :, None, None]
        return nn.functional.conv2d(x, weight, -(self.basis @ self.mean).to(x.dtype))


class PCAExpand(PCAProject):
    """Expands c principal channels to all C: B^T z + m. The inverse of the projection if c = C."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.basis.t().to(x.dtype)[:, :, None, None]
        return nn.functional.conv2d(x, weight, self.mean.to(x.dtype))


class RunningCovariance:
    """Mean and covariance of a feature's channels over images and pixels, summed in float64."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self._count = 0
        self._sum = torch.zeros(channels, dtype=torch.float64, device=device)
        self._squares = torch.zeros(channels, channels, dtype=torch.float64, device=device)

    def update(self, feature: Tensor) -> None:
        """Add a feature [N, C, H, W]."""
        rows = feature.movedim(1, -1).flatten(0, -2).double()
        self._count += len(rows)
        self._sum += rows.sum(dim=0)
        self._squares += rows.t() @ rows

    def principal_components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Basis [C, C], mean [C] and variances [C].

        The rows of the basis are the principal channels, largest variance first. The largest entry
        of each row is positive, which fixes the signs.
        """
        mean = self._sum / self._count
        covariance = self._squares / self._count - mean.outer(mean)
        variances, vectors = torch.linalg.eigh(covariance)
        basis = vectors.t().flip(0)
        largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
        return (
            (basis * largest.sign()).float(),
            mean.float(),
            variances.flip(0).clamp(min=0).float(),
        )
