"""Class similarity (KD-sim): one soft label for each class, from the teacher's class weights.

    L = T^2 * mean_b KL(rho[t_b] || q[b])
    rho[t] = softmax_k( cos(w_t, w_k) / sharpness )
    q = softmax(student / T);  w_k: row k of the teacher's last layer;  t_b: the true class

Tang et al. 2020, "Understanding and improving knowledge distillation". The synthetic teacher keeps
only the relations between classes; all examples of a class have the same label. The paper does not
give the sharpness. Rho is comparable with the teacher if its diagonal equals the teacher's mean
probability of the true class. The paper's loss is lam times the cross entropy with rho, without
T^2: the gradient is the same for weight = lam / T^2. Losses are in nats and averaged over teachers.
"""

from __future__ import annotations

from torch import Tensor

from stillhouse.methods.core.objective.class_similarity import class_similarities
from stillhouse.methods.core.objective.method import BuildContext, MethodConfig
from stillhouse.methods.core.objective.synthetic_teacher import SyntheticTeacher
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform


class ClassSimilarity(SyntheticTeacher):
    """Soft labels from the cosines between a teacher's class weights."""

    class Config(MethodConfig):
        """Settings of :class:`ClassSimilarity`."""

        sharpness: float = setting(
            0.3, "divides the cosines: smaller is sharper", LogUniform(0.05, 1.0), ge=0.001
        )
        temperature: float = setting(
            4.0, "divides the student's logits", LogUniform(1.0, 20.0), gt=0.0
        )

    config: Config
    targets: Tensor
    """log rho: [teachers, classes, classes]."""

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        table = (class_similarities(context) / config.sharpness).log_softmax(dim=2)
        self.register_buffer("targets", table, persistent=False)

    def target(self, number: int, teacher: Tensor, labels: Tensor) -> Tensor:
        """One row of the table for each label; ``teacher`` is not used."""
        return self.targets[number][labels]
