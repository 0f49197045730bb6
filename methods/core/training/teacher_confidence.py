"""A teacher's confidence and its relations between classes.

Tang et al. 2020, "Understanding and improving knowledge distillation": soft targets smooth labels,
weight examples by the teacher's confidence, and have relations between classes. A teacher that is
certain of all examples gives them equal weights. A teacher trained with label smoothing has no
relations between classes (Mueller, Kornblith and Hinton 2019).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.methods.core.training.evaluation import calibration_error

SATURATION_PROBABILITY = 1 - 1e-4
"""Above this probability of the true class, an example has its weight in cross entropy."""


def teacher_confidence(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    """Metrics of a teacher's logits [N, classes] on labels [N].

    Returns:
        ``accuracy``; ``confidence``: mean probability of the true class; ``softened``: the same at
        ``temperature``; ``entropy``: mean, in nats; ``ece``: as in evaluation; ``saturated``: share
        of examples above 1 - 1e-4; ``relations``: 1 less the relative mean entropy over the wrong
        classes, 0 if these have equal probabilities (and for two classes).
    """
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    true_probability = p.gather(1, labels[:, None])[:, 0]
    top = p.max(dim=1)
    correct = top.indices == labels
    softened_probability = (logits.double() / temperature).softmax(dim=1).gather(1, labels[:, None])
    return {
        "accuracy": correct.double().mean().item(),
        "confidence": true_probability.mean().item(),
        "softened": softened_probability.mean().item(),
        "entropy": -(p * log_p).sum(dim=1).mean().item(),
        "ece": calibration_error(top.values, correct),
        "saturated": (true_probability > SATURATION_PROBABILITY).double().mean().item(),
        "relations": _class_relations(logits.double(), labels),
    }


def class_similarity_metrics(cosines: Tensor, width: int) -> dict[str, float]:
    """Metrics of the cosines [classes, classes] between class weights of ``width`` numbers.

    ``cosine``: mean off the diagonal; ``spread``: standard deviation there; ``chance``: the spread
    of random directions, 1 / sqrt(width); ``erased``: 1 if the spread is smaller, as after label
    smoothing.
    """
    off_diagonal = cosines[~torch.eye(len(cosines), dtype=torch.bool)].double()
    spread = off_diagonal.std(correction=0).item()
    return {
        "cosine": off_diagonal.mean().item(),
        "spread": spread,
        "chance": 1 / math.sqrt(width),
        "erased": float(spread < 1 / math.sqrt(width)),
    }


def matching_sharpness(cosines: Tensor, confidence: float) -> float:
    """The sharpness of ``class_similarity`` for labels with a mean true probability ``confidence``.

    It solves mean_t softmax(cosines[t] / sharpness)[t] = ``confidence`` within 0.001 to 10, to
    three digits.
    """
    low, high = math.log(1e-3), math.log(10.0)
    for _ in range(60):
        middle = (low + high) / 2
        mean_confidence = (
            (cosines.double() / math.exp(middle)).softmax(dim=1).diagonal().mean().item()
        )
        low, high = (middle, high) if mean_confidence > confidence else (low, middle)
    return float(f"{math.exp((low + high) / 2):.3g}")


def _class_relations(logits: Tensor, labels: Tensor) -> float:
    classes = logits.shape[1]
    if classes < 3:
        return 0.0
    others = logits.scatter(1, labels[:, None], -torch.inf)
    log_p = others.log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p.isinf(), 0.0)).sum(dim=1)
    return 1 - entropy.mean().item() / math.log(classes - 1)
