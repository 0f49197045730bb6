"""Instance graph: examples and the distances between them are as the teacher has them.

    L = vertices * mean_bc (z[b, c](student) - z[b, c](teacher))^2
      + edges * mean_ij (A_ij(student) - A_ij(teacher))^2
    A_ij = |e_i - e_j|^2 / max over the batch of the same

The vertices are the logits z [B, classes], which have one width in all networks; the edges are
between the embeddings e [B, C] that enter the head, averaged over positions. A batch without two
different embeddings has no edges. Several teachers: the mean of their losses.

Liu et al. 2019, "Knowledge distillation via instance relationship graph", section 3, without its
third term, the transformation between layers. The common port to PyTorch divides by the maximum
and averages as this does, and weighs vertices 0.1 and edges 5, the defaults here. Its edges are the
mean over the embedding and two inner maps, and it has the third term: this is no preset of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.embedding import (
    EmbeddingMethod,
    pairwise_distances,
    safe_divide,
)
from stillhouse.methods.core.objective.method import BuildContext, MethodConfig, Progress
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


class InstanceGraph(EmbeddingMethod):
    """Squared differences of logits, and of squared distances between embeddings."""

    class Config(MethodConfig):
        """Settings of :class:`InstanceGraph`."""

        weight: float = setting(
            1.0, "share of this method in the summed loss", LogUniform(0.01, 10.0), ge=0.0
        )
        vertices: float = setting(0.1, "weight of the logits", LogUniform(0.005, 2.0), ge=0.0)
        edges: float = setting(5.0, "weight of the distances", LogUniform(0.25, 100.0), ge=0.0)

    config: Config
    compares_logits = True
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        if config.vertices == config.edges == 0:
            raise ConfigError("vertices and edges are both 0, so nothing is compared; raise one")

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From the logits [B, classes] and the embeddings [B, C] of all networks."""
        student_embedding, teacher_embeddings = self.embeddings(student, teachers)
        student_edges = relative_squared_distances(student_embedding)
        vertex_losses = [F.mse_loss(student.logits, teacher.logits) for teacher in teachers]
        edge_losses = [
            F.mse_loss(student_edges, relative_squared_distances(teacher))
            for teacher in teacher_embeddings
        ]
        vertex_loss, edge_loss = torch.stack(vertex_losses).mean(), torch.stack(edge_losses).mean()
        return self.config.vertices * vertex_loss + self.config.edges * edge_loss


def relative_squared_distances(e: Tensor) -> Tensor:
    """[B, B] squared distances in units of the largest; 0 where all are."""
    squared = pairwise_distances(e).square()
    return safe_divide(squared, squared.max())
