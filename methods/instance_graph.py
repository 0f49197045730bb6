"""Instance graph: logits, and distances between examples, match the teacher's.

    L = vertices * mean_bc (z[b, c](student) - z[b, c](teacher))^2
      + edges * mean_ij (A_ij(student) - A_ij(teacher))^2
    A_ij = |e_i - e_j|^2 / max_kl |e_k - e_l|^2

The vertices are the logits z [B, classes], of equal width in all networks. The edges are distances
between the inputs e [B, C] of the head, averaged over positions. Edges are 0 if all embeddings are
equal. Losses are averaged over teachers.

Liu et al. 2019, "Knowledge distillation via instance relationship graph", section 3, without its
third term, the transformation between layers. The common port to PyTorch also divides by the
maximum and averages. Its weights, 0.1 for vertices and 5 for edges, are the defaults here. It has
the third term and takes edges from two inner maps too, so these weights are not a preset.
"""

from __future__ import annotations

from collections.abc import Sequence

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

        weight: float = MethodConfig.weight_setting(1.0, 0.01, 10.0)
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
        vertex_loss = self.mean_over_teachers(
            F.mse_loss(student.logits, t.logits) for t in teachers
        )
        edge_loss = self.mean_over_teachers(
            F.mse_loss(student_edges, relative_squared_distances(e)) for e in teacher_embeddings
        )
        return self.config.vertices * vertex_loss + self.config.edges * edge_loss


def relative_squared_distances(e: Tensor) -> Tensor:
    """[B, B] squared distances divided by the largest; 0 if all are 0."""
    squared = pairwise_distances(e).square()
    return safe_divide(squared, squared.max())
