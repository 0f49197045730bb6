"""Every preset is the loss that its source computes.

``EXPRESSIONS`` holds one independent expression for each preset of each method, written from the
formula and the constants of the source it names. A preset without one fails here. All tensors are
random; what a method trains of its own lends its weights to the expression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.spaces.modules.network import Output
from stillhouse.spaces.network_spec import NetworkSpec

SIZE, CLASSES, SHAPE, EPOCHS = 6, 10, (3, 16, 16), 200
EPOCHS_TRIED = (1, 2, 19, 20, 21, 30, 31, 59, 60, 61, 159, 160, 200)
PRESETS = [(name, preset) for name in METHODS.names() for preset in METHODS.load(name).presets]


@dataclass
class Scene:
    """One objective of one preset, and random outputs of the networks that it is built for.

    ``epoch`` counts from 1, as the sources do.
    """

    method: str
    preset: str
    student: str | dict[str, object] = "resnet8"
    teacher: str = "resnet14"
    epoch: int = 1

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        objective = Objective.parse({self.method: {"preset": self.preset}})
        known = METHODS.load(self.method)
        parts = max(objective.num_subclasses, 5 if known.needs_subclasses else 1)
        networks = [
            NetworkSpec.parse(spec).with_num_subclasses(parts).build(SHAPE, CLASSES).eval()
            for spec in (self.student, self.teacher)
        ]
        images, self.labels = torch.rand(SIZE, *SHAPE), torch.randint(0, CLASSES, (SIZE,))
        pair = BuildContext(networks[0], networks[1:], CLASSES, 50, images)
        self.module = objective.build(pair).double().eval()
        self.own = self.module.methods[self.method]
        self.taps = (list(self.own.student_taps()), list(self.own.teacher_taps(0)))
        outputs = [drawn(n, images, taps) for n, taps in zip(networks, self.taps, strict=True)]
        self.s, self.t = outputs
        # Half of the teacher's answers are right, so that a mask of them is neither all nor none.
        self.t.logits[range(3), self.labels[:3]] = 9.0
        self.inputs = [self.s.logits, *self.s.features.values()]
        for tensor in self.inputs:
            tensor.requires_grad_(True)
        self.batch = Batch(images, self.labels, torch.arange(SIZE))

    def maps(self) -> list[tuple[Tensor, Tensor]]:
        """The paired features, shallow ones first."""
        return [(self.s.features[a], self.t.features[b]) for a, b in zip(*self.taps, strict=True)]

    def loss_calibration(self) -> Tensor:
        """What the method adds to the objective's sum in this epoch."""
        here = Progress(self.epoch - 1, EPOCHS, step=2, steps_per_epoch=4, seed=0)
        return self.module(self.s, [self.t], self.batch, here)[0]


def drawn(network, images, taps):
    """Random values in the shapes of a network's outputs."""
    with torch.no_grad():
        said = network(images, tuple(taps))
    features = {tap: torch.randn_like(said.features[tap], dtype=torch.double) for tap in taps}
    return Output(torch.randn_like(said.logits, dtype=torch.double) * 3, features)


# What several sources share


def kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Summed over classes, averaged over the batch; no T^2."""
    p, q = (x / temperature for x in (teacher, student))
    p, q = p.softmax(1), q.softmax(1)
    return (p * (p.log() - q.log())).sum() / len(p)


def shrunk(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Square maps at the size of the smaller."""
    size = min(one.shape[2], other.shape[2])
    return F.adaptive_avg_pool2d(one, size), F.adaptive_avg_pool2d(other, size)


def plain_cross_entropy(scene: Scene) -> Tensor:
    return -scene.s.logits.log_softmax(1)[range(SIZE), scene.labels].mean()


# The expressions


def szegedy(scene: Scene) -> Tensor:
    soft = torch.full((SIZE, CLASSES), 0.1 / CLASSES, dtype=torch.double)
    soft[range(SIZE), scene.labels] += 0.9
    return -(soft * scene.s.logits.log_softmax(1)).sum(1).mean()


def tian_labels(scene: Scene) -> Tensor:
    return 0.1 * plain_cross_entropy(scene)


def tian_soft_targets(scene: Scene) -> Tensor:
    return 0.9 * 4.0**2 * kl(scene.t.logits, scene.s.logits, 4.0)


def tian_attention(scene: Scene) -> Tensor:
    def attention(x: Tensor) -> Tensor:
        return F.normalize(x.pow(2).mean(1).flatten(1))

    each = [shrunk(s, t) for s, t in scene.maps()]
    assert len(each) == 3, "the ends of the three stages, without the stem"
    return 1000.0 * sum((attention(s) - attention(t)).pow(2).mean() for s, t in each)


def tian_hints(scene: Scene) -> Tensor:
    """Convolution to the teacher's map, batch norm, ReLU: also between equal widths."""
    ((s, t),) = scene.maps()
    assert scene.taps == (["stage2_1"], ["stage2_2"])
    convolution, norm, *_ = scene.own.connectors[0][0]
    weight, bias, rate = convolution.weight, convolution.bias, (s.shape[2] / t.shape[2])
    if rate == 2:
        x = F.conv2d(s, weight, bias, stride=2, padding=1)
    elif rate == 0.5:
        x = F.conv_transpose2d(s, weight, bias, stride=2, padding=1)
    else:
        x = F.conv2d(s, weight, bias)
    assert x.shape == t.shape
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)
    return 100.0 * (x.relu() - t).pow(2).mean()


def tian_similarities(scene: Scene) -> Tensor:
    ((s, t),) = scene.maps()
    assert scene.taps == (["stage3_1"], ["stage3_2"])
    s, t = (F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (s, t))
    return 3000.0 * (s - t).pow(2).sum() / SIZE**2


def tian_variational(scene: Scene) -> Tensor:
    """Regressors without biases; the variance of a channel starts at 5."""
    total = 0.0
    for (s, t), gaussian in zip(scene.maps(), scene.own.connectors[0], strict=True):
        assert not any(hasattr(m, "bias") and m.bias is not None for m in gaussian.mean)
        s, t = shrunk(s, t)
        first, second, third = (m.weight[:, :, 0, 0] for m in gaussian.mean if len(m._parameters))
        for i, weight in enumerate((first, second, third)):
            s = torch.einsum("oc,bchw->bohw", weight, s.relu() if i else s)
        variance = (1 + gaussian.raw_variance.exp()).log() + 1e-5
        torch.testing.assert_close(variance, torch.full_like(variance, 5.0))
        total = total + (0.5 * ((s - t) ** 2 / variance + variance.log())).mean()
    assert len(scene.taps[0]) == 3
    return total


def tian_relations(scene: Scene) -> Tensor:
    ((s, t),) = ([x.mean((2, 3)) for x in pair] for pair in scene.maps())

    def apart(e: Tensor) -> Tensor:
        rows = [torch.stack([(a - b).pow(2).sum().clamp(min=1e-12).sqrt() for b in e]) for a in e]
        d = torch.stack(rows) * (1 - torch.eye(SIZE, dtype=torch.double))
        return d / d[d > 0].mean()

    def angles(e: Tensor) -> Tensor:
        sides = F.normalize(e[None] - e[:, None], dim=2)
        return torch.einsum("jic,jkc->jik", sides, sides)

    return 25 * F.smooth_l1_loss(apart(s), apart(t)) + 50 * F.smooth_l1_loss(angles(s), angles(t))


def huang(weight: float, temperature: float) -> Callable[[Scene], Tensor]:
    """The authors multiply a weight of 2 by T^2, of the terms between and within classes alike."""

    def missing(s: Tensor, t: Tensor) -> Tensor:
        s, t = (x - x.mean(1, keepdim=True) for x in (s, t))
        return 1 - F.cosine_similarity(s, t, dim=1, eps=1e-20).mean()

    def expression(scene: Scene) -> Tensor:
        s, t = ((x.logits / temperature).softmax(1) for x in (scene.s, scene.t))
        return weight * temperature**2 * (missing(s, t) + missing(s.T, t.T))

    return expression


def zhao(beta: float, temperature: float, warmup: int) -> Callable[[Scene], Tensor]:
    """alpha is 1 in all of the authors' configurations; the warm-up counts epochs from 1."""

    def expression(scene: Scene) -> Tensor:
        p, q = ((x.logits / temperature).softmax(1) for x in (scene.t, scene.s))
        true = F.one_hot(scene.labels, CLASSES).bool()
        two_p, two_q = (torch.stack([x[true], 1 - x[true]], 1) for x in (p, q))
        target = (two_p * (two_p / two_q).log()).sum() / SIZE
        p, q = (x[~true].view(SIZE, -1) / (1 - x[true])[:, None] for x in (p, q))
        others = (p * (p / q).log()).sum() / SIZE
        return min(scene.epoch / warmup, 1.0) * temperature**2 * (target + beta * others)

    return expression


def zhang(scene: Scene) -> Tensor:
    """Soft cross entropy with the deepest output at T = 3, not multiplied by T^2. The divergence
    is that less the entropy of the deepest output, which no gradient sees."""
    deep = (scene.s.logits.detach() / 3).softmax(1)
    total = 0.0
    for name, classifier in scene.own.classifiers.items():
        z = classifier(scene.s.features[name])
        soft = -(deep * (z / 3).log_softmax(1)).sum(1).mean()
        entropy = -(deep * deep.log()).sum(1).mean()
        hard = -z.log_softmax(1)[range(SIZE), scene.labels].mean()
        total = total + 0.7 * hard + 0.3 * (soft - entropy)
    return total


def mueller_teacher(scene: Scene) -> Tensor:
    """z at mean 0 and variance 1 / K; weight 1 and tau 1."""
    (v,) = scene.s.features.values()
    width = v.shape[1]
    centred = v - v.mean(1, keepdim=True)
    z = centred / centred.pow(2).mean(1, keepdim=True).sqrt() / width**0.5
    return (z @ z.T).exp().sum(1).log().mean() - 1.0 - torch.tensor(float(SIZE)).log()


def mueller_student(scene: Scene) -> Tensor:
    """The authors' cross entropy at T = 4, less the teacher's entropy: a half of it, times T^2."""
    ((s, t),) = scene.maps()
    return 0.5 * 16 * kl(t, s, 4.0)


def mueller_labels(scene: Scene) -> Tensor:
    return 0.5 * plain_cross_entropy(scene)


def zhou_labels(since: int) -> Callable[[Scene], Tensor]:
    return lambda scene: (scene.epoch > since) * plain_cross_entropy(scene)


def zhou_guided(weight: float, since: int) -> Callable[[Scene], Tensor]:
    def expression(scene: Scene) -> Tensor:
        right = scene.t.logits.argmax(1) == scene.labels
        assert 0 < right.sum() < SIZE
        taught = kl(scene.t.logits[right], scene.s.logits[right], 1.0)
        return (scene.epoch > since) * weight * taught

    return expression


def zhou_channels(decays: Callable[[int], int]) -> Callable[[Scene], Tensor]:
    """Each stage through a 1x1 convolution without bias, batch norm and ReLU, always."""

    def expression(scene: Scene) -> Tensor:
        total = 0.0
        for (s, t), (conv, norm, _) in zip(scene.maps(), scene.own.connectors[0], strict=True):
            assert conv.bias is None
            s = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], s)
            s = F.batch_norm(s, norm.running_mean, norm.running_var, norm.weight, norm.bias)
            total = total + (s.relu().mean((2, 3)) - t.mean((2, 3))).pow(2).mean()
        return 6.0 * 0.9 ** decays(scene.epoch) * total

    return expression


EXPRESSIONS: dict[tuple[str, str], Callable[[Scene], Tensor]] = {
    ("attention", "tian2020"): tian_attention,
    ("channel_attention", "zhou2020_cifar100"): zhou_channels(
        lambda epoch: (epoch >= 60) + (epoch >= 160)
    ),
    ("channel_attention", "zhou2020_imagenet"): zhou_channels(lambda epoch: min(epoch // 30, 3)),
    ("cross_entropy", "mueller2020_mnist"): mueller_labels,
    ("cross_entropy", "szegedy2016"): szegedy,
    ("cross_entropy", "tian2020"): tian_labels,
    ("cross_entropy", "zhou2020_cifar100"): zhou_labels(60),
    ("cross_entropy", "zhou2020_imagenet"): zhou_labels(30),
    ("decoupled", "zhao2022_cifar100"): zhao(8.0, 4.0, 20),
    ("decoupled", "zhao2022_cifar100_resnet"): zhao(2.0, 4.0, 20),
    ("decoupled", "zhao2022_cifar100_vgg"): zhao(6.0, 4.0, 20),
    ("decoupled", "zhao2022_imagenet"): zhao(0.5, 1.0, 1),
    ("decoupled", "zhao2022_imagenet_mobilenet"): zhao(2.0, 1.0, 1),
    ("deep_to_shallow", "zhang2019"): zhang,
    ("dist", "huang2022_cifar100"): huang(2.0, 4.0),
    ("dist", "huang2022_imagenet"): huang(2.0, 1.0),
    ("guided", "zhou2020_cifar100"): zhou_guided(0.1, 60),
    ("guided", "zhou2020_imagenet"): zhou_guided(1.0, 30),
    ("hints", "tian2020"): tian_hints,
    ("relations", "tian2020"): tian_relations,
    ("similarities", "tian2020"): tian_similarities,
    ("soft_targets", "tian2020"): tian_soft_targets,
    ("subclass_contrast", "mueller2020_teacher"): mueller_teacher,
    ("subclasses", "mueller2020_mnist"): mueller_student,
    ("variational", "tian2020"): tian_variational,
}
NARROW = {"resnet8": {"width": 0.5}}


def test_every_preset_has_the_expression_of_its_source():
    assert set(EXPRESSIONS) == set(PRESETS)


@pytest.mark.parametrize("student", ["resnet8", NARROW], ids=["equal", "narrow"])
@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_is_the_loss_and_the_gradient_of_its_source(name, preset, student):
    scene, expression = Scene(name, preset, student), EXPRESSIONS[name, preset]
    for epoch in EPOCHS_TRIED:
        scene.epoch = epoch
        with torch.no_grad():
            found, wanted = scene.loss_calibration().item(), expression(scene).item()
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9), epoch
    assert found != 0.0
    found, wanted = (
        torch.autograd.grad(loss, scene.inputs, allow_unused=True)
        for loss in (scene.loss_calibration(), expression(scene))
    )
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
