"""Subclass distillation against its formulas in NumPy, closed forms, and public bugs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from stillhouse.methods.class_similarity import ClassSimilarity
from stillhouse.methods.contrast import Contrast
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.class_similarity import class_similarities
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.subclass_metrics import subclass_usage
from stillhouse.methods.cross_entropy import CrossEntropy
from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.methods.subclass_balance import SubclassBalance
from stillhouse.methods.subclass_contrast import SubclassContrast
from stillhouse.methods.subclasses import Subclasses
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output
from stillhouse.spaces.modules.subclasses import ClassLogits
from stillhouse.spaces.network_spec import NetworkSpec

SIZE, CLASSES = 8, 3


def network(name, subclasses, seed=0, classes=CLASSES):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return (
            NetworkSpec.parse(name)
            .with_num_subclasses(subclasses)
            .build((1, SIZE, SIZE), classes)
            .eval()
        )


def pair(subclasses=4, teachers=1, of_teachers=None, classes=CLASSES):
    student = network("cnn2", subclasses, classes=classes)
    parts = subclasses if of_teachers is None else of_teachers
    taught = [network("cnn4", parts, i + 1, classes) for i in range(teachers)]
    return BuildContext(student, taught, classes, 50, torch.rand(4, 1, SIZE, SIZE))


def said(split, subclasses=4):
    """What a network says whose head gives these logits of subclasses."""
    split = torch.as_tensor(split, dtype=torch.float64)
    return Output(ClassLogits(subclasses)(split), {"head": split})


def batch(labels):
    labels = torch.as_tensor(labels)
    return Batch(torch.zeros(len(labels), 1, SIZE, SIZE), labels, torch.arange(len(labels)))


def logits(seed, size=6, width=CLASSES * 4, scale=2.0):
    return np.random.RandomState(seed).normal(size=(size, width)) * scale


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def taught(s, teachers, at, subclasses=4, **settings):
    method = Subclasses(
        Subclasses.Config(subclasses=subclasses, **settings), pair(subclasses, len(teachers))
    )
    outputs = [said(z, subclasses) for z in teachers]
    return method(said(s, subclasses), outputs, batch([0] * len(s)), at)


# The student


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_is_the_divergence_over_all_subclasses(progress, t):
    s, z = logits(0), logits(1)
    p, q = softmax(z / t), softmax(s / t)
    wanted = t * t * np.sum(p * np.log(p / q), axis=1).mean()
    assert taught(s, [z], progress(), temperature=t).item() == pytest.approx(wanted)


def test_several_teachers_count_alike(progress):
    s, one, other = (logits(seed) for seed in range(3))
    each = [taught(s, [z], progress()).item() for z in (one, other)]
    assert taught(s, [one, other], progress()).item() == pytest.approx(np.mean(each))


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_one_subclass_is_plain_soft_targets(progress, t):
    both = pair(1)
    s, z = (Output(torch.tensor(logits(seed, width=CLASSES)), {}) for seed in (0, 1))
    plain = SoftTargets(SoftTargets.Config(temperature=t), both)
    method = Subclasses(Subclasses.Config(subclasses=1, temperature=t), both)
    s, z = (Output(o.logits, {"head": o.logits}) for o in (s, z))
    found, wanted = (m(s, [z], batch([0] * 6), progress()) for m in (method, plain))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_temperature_divides_the_students_logits_too(progress):
    """A public port softens the teacher alone, and multiplies by T squared all the same: then
    equal networks differ, and the gradient grows with T squared."""
    z = logits(1)
    assert taught(z, [z], progress(), temperature=4.0).item() == pytest.approx(0.0, abs=1e-12)
    p, q = softmax(z / 4), softmax(z)
    assert 16 * np.sum(p * np.log(p / q), axis=1).mean() > 1.0


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_gradient_is_the_one_of_softened_probabilities(progress, t):
    s = torch.tensor(logits(0), requires_grad=True)
    method = Subclasses(Subclasses.Config(subclasses=4, temperature=t), pair())
    z = logits(1)
    method(said(s), [said(z)], batch([0] * 6), progress()).backward()
    wanted = t * (softmax(s.detach().numpy() / t) - softmax(z / t)) / 6
    np.testing.assert_allclose(s.grad.numpy(), wanted, rtol=1e-9)


def test_labels_teach_the_student_and_not_the_teacher(progress):
    """A university's port gives cross entropy the teacher's logits, so labels teach nobody."""
    s = torch.tensor(logits(0), requires_grad=True)
    z = torch.tensor(logits(1), requires_grad=True)
    labels = [0, 1, 2, 0, 1, 2]
    CrossEntropy(CrossEntropy.Config(), pair())(
        said(s), [said(z)], batch(labels), progress()
    ).backward()
    assert z.grad is None
    p = softmax(s.detach().numpy())
    within = p.reshape(6, CLASSES, 4) / p.reshape(6, CLASSES, 4).sum(axis=2, keepdims=True)
    one = np.eye(CLASSES)[labels][:, :, None]
    wanted = (p.reshape(6, CLASSES, 4) - one * within) / 6
    np.testing.assert_allclose(s.grad.numpy(), wanted.reshape(6, -1), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("student", "teacher", "wanted", "message"),
    [
        (4, 4, 5, "is 5, and the student splits every class into 4; set subclasses: 5"),
        (5, 1, 5, "is 5, and teacher 1 splits no class"),
        (1, 1, 5, "the student splits no class"),
        (5, 2, 5, "teacher 1 splits every class into 2"),
    ],
)
def test_unequal_subclasses_are_refused(student, teacher, wanted, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Objective.parse({"subclasses": {"subclasses": wanted}}).build(pair(student, 1, teacher))
    assert caught.value.problems[0].path == "subclasses.subclasses"


# The teacher's auxiliary losses


def contrast(split, at, tau=0.5, subclasses=4):
    method = SubclassContrast(SubclassContrast.Config(tau=tau), pair(subclasses))
    return method(said(split, subclasses), [], batch([0] * len(split)), at).item()


def test_contrast_is_the_formula_of_the_authors(progress):
    """Pearson's correlations of all pairs of images, over tau."""
    v = logits(3, size=7)
    wanted = np.mean(np.log(np.exp(np.corrcoef(v) / 0.2).sum(axis=1))) - 1 / 0.2 - np.log(7)
    assert contrast(v, progress(), tau=0.2) == pytest.approx(wanted)


def test_contrast_sees_no_more_than_a_softmax_does(progress):
    """An offset of all logits of an image changes no probability, and lowers cosines at will."""
    v = logits(3, size=7)
    offsets = logits(4, size=7, width=1, scale=50.0)
    assert contrast(v + offsets, progress()) == pytest.approx(contrast(v, progress()))
    assert contrast(np.ones((5, 12)) * 3, progress()) == pytest.approx(-2.0)  # correlates with none


def test_contrast_is_zero_where_all_answer_alike_and_bounded_below(progress):
    row = np.arange(12.0)
    alike = np.outer([1.0, 2.0, 0.5, 7.0], row)
    assert contrast(alike, progress()) == pytest.approx(0.0, abs=1e-12)
    for seed in range(20):
        for tau in (0.05, 0.1, 0.5, 1.0):
            found = contrast(logits(seed, size=16), progress(), tau=tau)
            assert -np.log(16) <= found < 0
    apart = np.eye(12) * 9
    assert contrast(apart, progress(), tau=0.05) == pytest.approx(-np.log(12), abs=1e-6)
    assert contrast(row[None], progress()) == pytest.approx(0.0, abs=1e-12)


def test_contrast_has_the_values_worked_out_for_64_images(progress):
    random = np.random.RandomState(0)
    spread = [
        contrast(random.normal(size=(64, 10)), progress(), tau=0.5, subclasses=2) for _ in range(20)
    ]
    assert np.mean(spread) == pytest.approx(-1.72, abs=0.05)
    clusters = [
        contrast(np.eye(10)[random.randint(0, 10, 64)], progress(), tau=0.1, subclasses=2)
        for _ in range(20)
    ]
    assert np.mean(clusters) == pytest.approx(-2.22, abs=0.05)
    assert -np.log(64) == pytest.approx(-4.16, abs=0.01)


def balance(split, labels, at, sharpen=0.5, subclasses=4):
    method = SubclassBalance(SubclassBalance.Config(sharpen=sharpen), pair(subclasses))
    return method(said(split, subclasses), [], batch(labels), at)


def entropy(p):
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)


def test_balance_is_the_formula_within_every_class(progress):
    v, labels = logits(4, size=8), np.array([0, 2, 2, 0, 0, 2, 2, 2])
    each = []
    for c in (0, 2):
        r = softmax(v[labels == c].reshape(-1, CLASSES, 4)[:, c])
        each.append(0.3 * entropy(r).mean() - entropy(r.mean(axis=0)))
    found = balance(v, labels, progress(), sharpen=0.3).item()
    assert found == pytest.approx(np.mean(each))


def test_balance_keeps_its_bounds_and_finite_gradients(progress):
    for scale in (0.1, 3.0, 300.0):
        v = torch.tensor(logits(5, size=8, scale=scale), requires_grad=True)
        loss = balance(v, [0, 0, 0, 0, 1, 1, 1, 1], progress())
        assert -np.log(4) - 1e-9 <= loss.item() <= 0.5 * np.log(4) + 1e-9
        loss.backward()
        assert v.grad.isfinite().all()
    committed = np.tile(np.eye(4) * 400, (1, CLASSES))
    best = balance(committed, [1, 1, 1, 1], progress())
    assert best.item() == pytest.approx(-np.log(4))
    one_alone = balance(np.tile(committed[:1], (4, 1)), [1, 1, 1, 1], progress())
    assert one_alone.item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["subclass_contrast", "subclass_balance"])
def test_whole_classes_have_nothing_to_keep_apart(name):
    with pytest.raises(ConfigError, match="needs a network with subclasses; set subclasses: 5"):
        Objective.parse({name: {}}).build(pair(1))


@pytest.mark.parametrize("name", ["subclass_contrast", "subclass_balance"])
def test_without_it_one_subclass_wins_and_with_it_all_are_used(name, progress):
    """Cross entropy alone is content with one subclass a class; logits are learnt directly here."""
    labels = torch.arange(2).repeat_interleave(20)
    used = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        v = torch.randn(40, 2 * 4) * 0.3
        v[:, [0, 4]] += 1.5
        v.requires_grad_(True)
        both = pair(4, classes=2)
        aux = Objective.parse({name: {}}).build(both).methods[name]
        optimizer = torch.optim.SGD([v], lr=4.0)
        for _ in range(150):
            output = Output(ClassLogits(4)(v), {"head": v})
            loss = torch.nn.functional.cross_entropy(output.logits, labels)
            loss = loss + weight * aux(output, [], batch(labels), progress())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        used[weight] = subclass_usage(v.detach(), labels, 4)
    assert used[0.0] < 0.9 * used[1.0]


# Other methods see classes


def test_embeddings_are_what_enters_the_head():
    split = Contrast(Contrast.Config(), pair(4))
    whole = Contrast(Contrast.Config(), pair(1))
    assert split.student_taps() == whole.student_taps()
    assert split.teacher_taps(0) == whole.teacher_taps(0)


def test_class_weights_are_the_mean_of_the_subclasses():
    both = pair(2)
    weights = [m for m in both.teachers[0].blocks["head"].modules() if hasattr(m, "weight")][-1]
    rows = weights.weight.detach().double().numpy().reshape(CLASSES, 2, -1).mean(axis=1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(
        class_similarities(both)[0].numpy(), rows @ rows.T, rtol=1e-4, atol=1e-6
    )
    ClassSimilarity(ClassSimilarity.Config(), both)


def test_a_network_like_the_teacher_learns_nothing_new(progress):
    both = pair(4)
    same = BuildContext(copy.deepcopy(both.teachers[0]), both.teachers, CLASSES, 50, both.sample)
    module = Objective.parse({"subclasses": {"subclasses": 4}}).build(same)
    images = torch.rand(5, 1, SIZE, SIZE)
    with torch.no_grad():
        mine = same.student(images, module.student_taps())
        theirs = both.teachers[0](images, module.teacher_taps(0))
    loss, _ = module(mine, [theirs], batch([0] * 5), progress())
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
