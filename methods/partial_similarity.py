"""Partial teacher with class similarity (KD-pt + sim): confidence, and similar classes.

    L = T^2 * mean_b KL(rho || q)
    rho_t = p_t,   rho_i = (1 - p_t) * s_i / sum_{j != t} s_j  for i != t, the true class
    s = softmax_k( cos(w_t, w_k) / sharpness ),  w_k: row k of the teacher's last layer
    p = softmax(teacher / T),  q = softmax(student / T)

Tang et al. 2020, "Understanding and improving knowledge distillation". It combines the synthetic
teachers ``partial_teacher`` and ``class_similarity``: it keeps the confidence in each example and
the relations between classes. It drops the relations that a teacher sees in a single example. The
paper's loss is lam times the cross entropy with rho, without T^2: the gradient is the same for
weight = lam / T^2. Losses are in nats and averaged over teachers.
"""

from __future__ import annotations

from torch import Tensor

from stillhouse.methods.core.objective.class_similarity import class_similarities
from stillhouse.methods.core.objective.method import BuildContext, MethodConfig
from stillhouse.methods.core.objective.soft_labels import (
    drop_class,
    join_class,
    select_class,
    softened_log_probs,
)
from stillhouse.methods.core.objective.synthetic_teacher import SyntheticTeacher
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform


class PartialSimilarity(SyntheticTeacher):
    """Soft targets whose wrong classes have probabilities by similarity to the true class."""

    class Config(MethodConfig):
        """Settings of :class:`PartialSimilarity`."""

        sharpness: float = setting(
            0.3, "divides the cosines: smaller is sharper", LogUniform(0.05, 1.0), ge=0.001
        )
        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    scores: Tensor
    """Cosines over sharpness: [teachers, classes, classes]."""

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        self.register_buffer(
            "scores", class_similarities(context) / config.sharpness, persistent=False
        )

    def target(self, number: int, teacher: Tensor, labels: Tensor) -> Tensor:
        log_p = softened_log_probs(teacher, self.config.temperature)
        log_p_others = drop_class(log_p, labels).logsumexp(dim=1, keepdim=True)
        shares = drop_class(self.scores[number][labels], labels).log_softmax(dim=1)
        return join_class(select_class(log_p, labels), log_p_others + shares, labels)
