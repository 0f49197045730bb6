"""Recovery of hidden classes, against brute force over all matchings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.methods.core.training.subclass_metrics import (
    compute_subclass_metrics,
    subclass_usage,
)
from stillhouse.spaces.network_spec import NetworkSpec

MERGE = [[0, 1, 2], [3, 4]]


def reference(subclass, hidden, subclasses, classes):
    """The best one-to-one matching, tried one by one, and the majority."""
    best = 0
    smaller = min(subclasses, classes)
    for chosen in itertools.permutations(range(subclasses), smaller):
        for others in itertools.combinations(range(classes), smaller):
            pairs = zip(chosen, others, strict=True)
            best = max(best, sum(((subclass == s) & (hidden == h)).sum() for s, h in pairs))
    most = sum(
        np.bincount(hidden[subclass == s], minlength=classes).max() for s in range(subclasses)
    )
    return best / len(hidden), most / len(hidden)


@pytest.mark.parametrize(("classes", "subclasses"), [(2, 2), (2, 3), (1, 3)])
def test_the_matching_is_the_best_there_is(classes, subclasses):
    for seed in range(10):
        random = np.random.RandomState(seed)
        logits = random.normal(size=(60, classes * subclasses))
        hidden = random.randint(0, 5, 60)
        labels = torch.as_tensor(np.minimum(hidden // 3, classes - 1))
        found = compute_subclass_metrics(
            torch.as_tensor(logits), labels, subclasses, torch.as_tensor(hidden)
        )
        wanted = reference(logits.argmax(axis=1), hidden, classes * subclasses, 5)
        assert found["subclass_recovery"] == pytest.approx(wanted[0])
        assert found["subclass_majority"] == pytest.approx(wanted[1])
        assert found["subclass_recovery"] <= found["subclass_majority"] + 1e-12


def test_perfect_and_hopeless_subclasses():
    hidden = torch.arange(4).repeat(5)
    labels = hidden // 2
    order = torch.tensor([1, 0, 3, 2])
    perfect = torch.eye(4)[order[hidden]] * 50
    told = compute_subclass_metrics(perfect, labels, 2, hidden)
    assert told["subclass_recovery"] == told["subclass_majority"] == 1.0
    assert told["subclass_usage"] == pytest.approx(1.0)
    dead = torch.eye(4)[labels * 2] * 50
    told = compute_subclass_metrics(dead, labels, 2, hidden)
    assert told["subclass_recovery"] == 0.5
    assert told["subclass_usage"] == pytest.approx(0.0, abs=1e-9)


def test_usage_is_the_entropy_of_the_mean_within_a_class():
    random = np.random.RandomState(0)
    v, labels = random.normal(size=(30, 9)), random.choice([0, 2], 30)
    each = []
    for c in (0, 2):
        e = np.exp(v[labels == c].reshape(-1, 3, 3)[:, c])
        mean = (e / e.sum(axis=1, keepdims=True)).mean(axis=0)
        each.append(-(mean * np.log(mean)).sum() / np.log(3))
    found = subclass_usage(torch.as_tensor(v), torch.as_tensor(labels), 3)
    assert found == pytest.approx(np.mean(each), rel=1e-6)


def test_evaluation_tells_them_of_networks_that_split_classes(digits):
    torch.manual_seed(0)
    merged = digits(merge=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    network = NetworkSpec.parse("cnn2").with_num_subclasses(5).build(merged.shape, merged.classes)
    told = evaluate(network, merged, "validation", device="cpu")
    assert {"subclass_recovery", "subclass_majority", "subclass_usage"} < set(told)
    parts = list(merged.batches("validation", batch_size=1000, device="cpu"))
    with torch.no_grad():
        split = network.eval()(parts[0].images, ("head",)).features["head"].numpy()
    hidden = merged.labels_before_merge("validation").numpy()
    assert np.array_equal(hidden // 5, parts[0].labels.numpy())
    counts = [np.bincount(hidden[split.argmax(axis=1) == s], minlength=10).max() for s in range(10)]
    assert told["subclass_majority"] == pytest.approx(sum(counts) / len(hidden))

    plain = digits()
    network = NetworkSpec.parse("cnn2").with_num_subclasses(2).build(plain.shape, plain.classes)
    told = evaluate(network, plain, "validation", device="cpu")
    assert "subclass_usage" in told
    assert "subclass_recovery" not in told
    network = NetworkSpec.parse("cnn2").build(merged.shape, merged.classes)
    assert not any("subclass" in name for name in evaluate(network, merged, "test", device="cpu"))


def test_answers_among_a_tasks_classes(digits):
    torch.manual_seed(0)
    some = digits(classes=[1, 4, 7])
    network = NetworkSpec.parse("cnn2").build(some.shape, some.classes)
    told = evaluate(network, some, "validation", device="cpu")
    parts = next(some.batches("validation", batch_size=1000, device="cpu"))
    with torch.no_grad():
        logits = network.eval()(parts.images, ()).logits.numpy()
    among = np.array([1, 4, 7])[logits[:, [1, 4, 7]].argmax(axis=1)]
    assert told["task_accuracy"] == pytest.approx((among == parts.labels.numpy()).mean())
    assert told["task_accuracy"] >= told["accuracy"]
    assert "task_accuracy" not in evaluate(network, digits(), "test", device="cpu")
