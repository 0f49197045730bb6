"""Dataset distillation: its gradient, its schedule, its beginnings, and the steps it is for.

Where public code of the paper goes wrong (flags that are strings, a decay that comes early, labels
of two classes the wrong way round, a threshold at 0.5 of a logit, accuracy of a single batch), a
test here holds that this does not.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.replaced_train_split import ReplacedTrainSplit
from stillhouse.methods.core.synthesis.distilling.distil import distil
from stillhouse.methods.core.synthesis.distilling.distilled_set import (
    DistilledSet,
    train_on_distilled,
)
from stillhouse.methods.core.synthesis.distilling.initial_examples import initial_examples
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import (
    Examples,
    UnrolledSteps,
    copy_weights,
    stack_weights,
)
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec
from tests.support.checkpointers import MemoryCheckpointer

CPU = torch.device("cpu")
SHAPE, CLASSES = (2, 3, 1), 3
SMALL = {"iterations": 60, "batch_size": 64, "rate": 0.1, "lr": 0.05, "examples": 10}


def smooth(shape=SHAPE, classes=CLASSES, units=5):
    """A network without a kink, in float64."""
    inputs = int(np.prod(shape))
    hidden = nn.Sequential(nn.Flatten(1), nn.Linear(inputs, units), nn.Tanh())
    mean, std = [0.3] * shape[0], [0.5] * shape[0]
    return Network({"hidden": hidden, "head": nn.Linear(units, classes)}, mean, std).double()


def scene(steps=2, passes=2, examples=2, network=None):
    """A network's weights, examples, and a real batch."""
    torch.manual_seed(3)
    network = network or smooth()
    found = Examples(
        torch.randn(steps, examples, *SHAPE, dtype=torch.float64),
        torch.randn(steps, examples, CLASSES, dtype=torch.float64),
        torch.randn(steps * passes, dtype=torch.float64),
    )
    real = torch.rand(7, *SHAPE, dtype=torch.float64)
    return network, found, real, torch.arange(7) % CLASSES


def unroll(network, softmax=False, kept=2):
    mean, std = network.mean.flatten(), network.std.flatten()
    return UnrolledSteps(network, mean, std, softmax=softmax, num_kept_graphs=kept)


@pytest.mark.parametrize("softmax", [False, True])
def test_the_gradient_is_that_of_finite_differences(softmax):
    network, examples, real, truth = scene()
    taking = unroll(network, softmax)
    start = copy_weights(network)
    _, down = taking.gradient(start, examples, real, truth)
    step = 1e-6
    for place, part in enumerate(examples):
        for i in range(part.numel()):
            ends = []
            for sign in (1, -1):
                moved = [p.clone() for p in examples]
                moved[place].view(-1)[i] += sign * step
                ends.append(taking.gradient(start, Examples(*moved), real, truth)[0].item())
            slope = (ends[0] - ends[1]) / (2 * step)
            assert down[place].view(-1)[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert all(part.abs().min() > 0 for part in down)


def by_autograd(network, examples, real, truth):
    """The same loss, straight through the whole graph and from the formulas alone."""
    mean, std = network.mean, network.std
    leaves = [part.clone().requires_grad_() for part in examples]
    images, labels, rates = leaves
    weights = dict(network.named_parameters())

    def said(weights, x):
        return torch.func.functional_call(network, weights, (x, ())).logits

    for i in range(len(rates)):
        place = i % len(images)
        log_q = said(weights, images[place] * std + mean).log_softmax(dim=1)
        loss = -(labels[place] * log_q).sum(dim=1).mean()
        downs = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        size = torch.log1p(rates[i].exp())
        weights = {n: w - size * d for (n, w), d in zip(weights.items(), downs, strict=True)}
    log_q = said(weights, real).log_softmax(dim=1)
    loss = -log_q[torch.arange(len(real)), truth].mean()
    return loss, torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("kept", [0, 1, 6, 9])
def test_steps_that_are_run_again_change_no_bit(kept):
    """However much of the graph is kept, and as the whole graph has it."""
    network, examples, real, truth = scene(passes=3)
    loss, downs = by_autograd(network, examples, real, truth)
    found, down = unroll(network, kept=kept).gradient(copy_weights(network), examples, real, truth)
    torch.testing.assert_close(found, loss)
    for mine, theirs in zip(down, downs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    other = unroll(network, kept=6).gradient(copy_weights(network), examples, real, truth)[1]
    assert all(torch.equal(a, b) for a, b in zip(down, other, strict=True))


def test_a_real_batch_in_parts_is_the_whole(monkeypatch):
    network, examples, real, truth = scene()
    whole = unroll(network).gradient(copy_weights(network), examples, real, truth)
    monkeypatch.setattr("stillhouse.methods.core.synthesis.distilling.unroll.CHUNK_SIZE", 3)
    parts = unroll(network).gradient(copy_weights(network), examples, real, truth)
    torch.testing.assert_close(parts, whole)


def test_several_networks_at_once_are_their_mean():
    _, examples, real, truth = scene()
    torch.manual_seed(0)
    networks = [smooth() for _ in range(3)]
    waiting = iter(networks)
    weights = stack_weights(lambda: next(waiting), 3)
    loss, down = unroll(smooth(), kept=1).gradients(weights, examples, real, truth)
    alone = [unroll(n).gradient(copy_weights(n), examples, real, truth) for n in networks]
    torch.testing.assert_close(loss, torch.stack([one for one, _ in alone]).mean())
    for place, part in enumerate(down):
        torch.testing.assert_close(part, torch.stack([d[place] for _, d in alone]).mean(dim=0))


def test_convolutions_that_write_in_place_are_unrolled_too():
    network = NetworkSpec.parse({"lenet5": {"width": 0.25}}).build((1, 12, 12), 3).double()
    examples = Examples(
        torch.randn(1, 3, 1, 12, 12, dtype=torch.float64),
        torch.eye(3, dtype=torch.float64)[None],
        torch.zeros(2, dtype=torch.float64),
    )
    real, truth = torch.rand(5, 1, 12, 12, dtype=torch.float64), torch.arange(5) % 3
    _, downs = by_autograd(network, examples, real, truth)
    taking = UnrolledSteps(network, torch.zeros(1), torch.ones(1), softmax=False)
    _, down = taking.gradient(copy_weights(network), examples, real, truth)
    for mine, theirs in zip(down, downs, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_network_takes_the_steps_that_were_unrolled():
    network, examples, _, _ = scene()
    expected = copy_weights(network)
    for i in range(len(examples.rates)):
        told = examples.images[i % 2], examples.labels[i % 2], examples.rates[i]
        expected = unroll(network).step(expected, *told)
    shown = (examples.images * network.std + network.mean).flatten(0, 1)
    sizes = nn.functional.softplus(examples.rates)
    train_on_distilled(network, DistilledSet(shown, examples.labels.flatten(0, 1), sizes), steps=2)
    torch.testing.assert_close(copy_weights(network), expected)


def test_labels_count_as_they_stand():
    """One step of one example with a label that is no distribution, by NumPy."""
    network = Network({"flat": nn.Flatten(1), "head": nn.Linear(2, 2, bias=False)}).double()
    weight = np.array([[0.5, -1.0], [0.25, 2.0]])
    network.blocks["head"].weight.data.copy_(torch.from_numpy(weight))
    x, y, rate = np.array([1.0, -2.0]), np.array([1.5, -0.25]), 0.3
    q = np.exp(weight @ x) / np.exp(weight @ x).sum()
    wanted = weight - rate * np.outer(y.sum() * q - y, x)
    images = torch.from_numpy(x).view(1, 2, 1, 1)
    told = DistilledSet(
        images, torch.from_numpy(y)[None], torch.tensor([rate], dtype=torch.float64)
    )
    train_on_distilled(network, told, steps=1)
    np.testing.assert_allclose(network.blocks["head"].weight.detach().numpy(), wanted)


def test_the_rate_is_halved_after_a_full_share_and_no_earlier():
    """As published, 350 epochs, halved every 35: epochs 0 to 34 at the full rate."""
    how = Distilling(iterations=350, halvings=9, lr=0.01)
    assert {how.lr_at(i) for i in range(35)} == {0.01}
    assert [how.lr_at(i) for i in (35, 69, 70, 349)] == [0.005, 0.005, 0.0025, 0.01 / 2**9]
    assert {Distilling(halvings=0).lr_at(i) for i in (0, 19_999)} == {0.01}


@pytest.mark.parametrize("iterations", [1, 39, 100, 20_000])
def test_reports_share_all_iterations(iterations):
    how = Distilling(iterations=iterations)
    found = [i for report in range(how.num_reports) for i in how.iterations_of(report)]
    assert found == list(range(iterations))


@pytest.mark.parametrize(
    "told",
    [{"labels": "0"}, {"label_start": "0"}, {"images": ""}, {"start": False}, {"classes": [1, 1]}],
)
def test_settings_are_no_strings_that_happen_to_be_true(told):
    with pytest.raises(ConfigError):
        Distilling.parse(told)


@pytest.fixture(scope="module")
def digits():
    return open_data(DataConfig(source="digits", validation=0.25))


@pytest.fixture(scope="module")
def two_classes():
    groups = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    return open_data(DataConfig(source="digits", validation=0.25, merge=groups))


def begun(data, **told):
    return initial_examples(data, Distilling.parse(told), torch.Generator().manual_seed(0))


def test_examples_begin_with_the_classes_asked_for(digits):
    examples = begun(digits, examples=3, steps=2, passes=4, rate=0.7, classes=[3, 7])
    assert examples.images.shape == (2, 3, *digits.shape)
    assert examples.labels.argmax(dim=2).tolist() == [[3, 7, 3]] * 2
    assert examples.labels.sum(dim=2).eq(1).all()
    torch.testing.assert_close(nn.functional.softplus(examples.rates), torch.full((8,), 0.7))


def test_two_classes_are_two_logits_and_the_right_way_round(two_classes):
    examples = begun(two_classes, examples=2, labels="hard", images="means")
    assert examples.labels[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    batch = next(iter(two_classes.batches("train", batch_size=5_000, device=CPU)))
    mean, std = (torch.tensor(m).view(-1, 1, 1) for m in (two_classes.mean, two_classes.std))
    for label in (0, 1):
        shown = (batch.images[batch.labels == label].mean(dim=0) - mean) / std
        torch.testing.assert_close(examples.images[0, label], shown, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("start", "row"),
    [
        ("one_hot", [0, 2.0, 0]),
        ("smoothed", [2 * 0.1 / 3, 2 * (0.9 + 0.1 / 3), 2 * 0.1 / 3]),
        ("zeros", [0, 0, 0]),
    ],
)
def test_labels_begin_as_asked(start, row):
    data = open_data(DataConfig(source="digits", merge=((0, 1, 2), (3, 4, 5), (6, 7, 8, 9))))
    labels = begun(data, classes=[1], examples=1, label_start=start, label_scale=2.0).labels
    np.testing.assert_allclose(labels[0, 0].numpy(), row, rtol=1e-6)


def test_drawn_labels_differ(digits):
    drawn = [begun(digits, label_start=start).labels for start in ("uniform", "normal")]
    assert drawn[0].min() >= 0
    assert drawn[0].max() <= 1
    assert drawn[1].min() < 0


def test_one_centre_of_a_class_is_its_mean_and_two_are_closer(digits):
    means = begun(digits, examples=1, classes=[4], images="means").images
    centre = begun(digits, examples=1, classes=[4], images="centres").images
    torch.testing.assert_close(centre, means, atol=1e-4, rtol=1e-4)
    two = begun(digits, examples=2, classes=[4], images="centres").images[0].flatten(1)
    batch = next(iter(digits.batches("train", batch_size=5_000, device=CPU)))
    mean, std = (torch.tensor(m).view(-1, 1, 1) for m in (digits.mean, digits.std))
    fours = ((batch.images[batch.labels == 4] - mean) / std).flatten(1)
    nearest = torch.cdist(fours, two).min(dim=1).values.square().sum()
    assert nearest < torch.cdist(fours, means[0].flatten(1)).square().sum()


def test_real_examples_are_of_the_training_split(digits):
    found = begun(digits, examples=4, classes=[2, 5], images="real").images[0].flatten(1)
    batch = next(iter(digits.batches("train", batch_size=5_000, device=CPU)))
    mean, std = (torch.tensor(m).view(-1, 1, 1) for m in (digits.mean, digits.std))
    apart = torch.cdist(((batch.images - mean) / std).flatten(1).double(), found.double())
    assert apart.min(dim=0).values.max() < 1e-5
    assert batch.labels[apart.argmin(dim=0)].tolist() == [2, 5, 2, 5]
    with pytest.raises(ConfigError, match="examples: asks for 5000 of class 2"):
        begun(digits, examples=5_000, classes=[2], images="real")


def drained(running):
    curve = []
    while True:
        try:
            curve.append(next(running))
        except StopIteration as end:
            return curve, *end.value


def small(data):
    """A network of one hidden layer for a data set."""

    def fresh():
        inputs = int(np.prod(data.shape))
        hidden = nn.Sequential(nn.Flatten(1), nn.Linear(inputs, 16), nn.Tanh())
        network = Network({"hidden": hidden, "head": nn.Linear(16, data.classes)})
        return network.with_normalisation(data.mean, data.std)

    return fresh


def distilled(data, saves=None, **told):
    how = Distilling.parse({**SMALL, **told})
    return drained(distil(small(data), data, how, seed=1, device=CPU, checkpointer=saves))


def trained(data, found):
    """The network of the seed, after the steps."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = small(data)()
    train_on_distilled(network, found, steps=1)
    return network


def right(network, data):
    """The share of the validation split."""
    (batch,) = data.batches("validation", batch_size=5_000, device=CPU)
    with torch.no_grad():
        found = network(batch.images, ()).logits.argmax(dim=1)
    return (found == batch.labels).double().mean().item()


def test_what_is_learnt_trains_a_network_and_is_judged_on_the_whole_split(digits):
    curve, found, figures = distilled(digits, iterations=300)
    assert digits.facts.sizes["validation"] > 300
    assert figures["val_accuracy"] == curve[-1]["val_accuracy"] > 0.75
    assert right(trained(digits, found), digits) == pytest.approx(figures["val_accuracy"])
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert found.images.shape == (10, *digits.shape)


def test_fewer_examples_than_classes_know_all_classes(digits):
    _, found, figures = distilled(digits, examples=5, iterations=300)
    assert found.labels.shape == (5, 10)
    assert figures["val_accuracy"] > 0.6  # one class an example comes to 0.5 at most


def test_two_classes_are_told_apart_by_the_larger_logit(two_classes):
    _, found, figures = distilled(two_classes, examples=4)
    assert found.labels.shape == (4, 2)
    assert figures["val_accuracy"] > 0.65


def test_hard_labels_and_chosen_images_stay(digits):
    first = begun(digits, **SMALL, images="means", labels="hard")
    _, found, _ = distilled(digits, images="means", labels="hard", iterations=5)
    torch.testing.assert_close(found.labels, torch.eye(10))
    mean, std = (torch.tensor(m).view(-1, 1, 1) for m in (digits.mean, digits.std))
    torch.testing.assert_close(found.images, first.images[0] * std + mean)
    assert (found.rates - 0.1).abs().min() > 0


def test_labels_through_a_softmax_are_distributions(digits):
    _, found, _ = distilled(digits, labels="softmax", iterations=5)
    torch.testing.assert_close(found.labels.sum(dim=1), torch.ones(10))
    assert found.labels.min() > 0


@pytest.mark.parametrize(("clip", "largest"), [(1e-3, True), (1e6, False)])
def test_a_gradient_is_clipped_as_a_whole(digits, clip, largest):
    """Adam's first moment after one iteration is (1 - 0.5) times the gradient that it was told."""
    plain, clipped = MemoryCheckpointer(only_at=1), MemoryCheckpointer(only_at=1)
    distilled(digits, iterations=2, clip=None, saves=plain)
    distilled(digits, iterations=2, clip=clip, saves=clipped)
    told, cut = (2 * torch.cat(_firsts(kept.saved[-1])) for kept in (plain, clipped))
    torch.testing.assert_close(cut, told * clip / told.norm() if largest else told)


def _firsts(saved):
    return [tensor.flatten() for name, tensor in saved.items() if name.endswith("exp_avg")]


def test_fresh_networks_are_judged_with_mean_and_spread(digits):
    told = {"start": "random", "networks": 2, "judged_on": 5}
    curve, _, figures = distilled(digits, **told)
    assert figures["val_accuracy"] > 0.3
    assert figures["val_accuracy_spread"] > 0
    assert figures["val_accuracy"] != curve[-1]["val_accuracy"]  # of three alone


def test_the_best_report_is_kept(digits):
    """At a rate that undoes what it learns, now and then."""
    told = {"iterations": 80, "lr": 0.3, "halvings": 0}
    curve, last, _ = distilled(digits, **told)
    _, found, figures = distilled(digits, keep="best", **told)
    best = max(curve, key=lambda report: report["val_accuracy"])
    assert best["val_accuracy"] == figures["val_accuracy"] > curve[-1]["val_accuracy"]
    assert figures["train_loss"] == best["train_loss"]
    network = trained(digits, found)
    assert right(network, digits) == pytest.approx(best["val_accuracy"])
    assert not torch.equal(last.images, found.images)


def test_the_best_needs_a_validation_split(digits):
    data = open_data(digits.config.model_copy(update={"validation": 0.0}))
    with pytest.raises(ConfigError, match="keep: best needs a validation split"):
        distilled(data, keep="best")


@pytest.mark.parametrize("told", [{}, {"keep": "best"}, {"start": "random", "networks": 2}])
def test_it_resumes_with_the_same_bits(digits, told):
    saves = MemoryCheckpointer(only_at=17)
    curve, found, _ = distilled(digits, **told, saves=saves)
    again, resumed, _ = distilled(digits, **told, saves=saves)
    assert all(torch.equal(a, b) for a, b in zip(found, resumed, strict=True))
    assert [r["train_loss"] for r in again] == [r["train_loss"] for r in curve]
    assert not torch.equal(saves.saved[-1]["examples.images"], found.images)


def test_batch_norm_is_refused(digits):
    network = NetworkSpec.parse("cnn2").build(digits.shape, 10)
    with pytest.raises(ConfigError, match=r"network: has batch norm .* such as lenet5"):
        UnrolledSteps(network, torch.zeros(1), torch.ones(1), softmax=False)
    told = DistilledSet(torch.zeros(1, *digits.shape), torch.ones(1, 10), torch.ones(1))
    with pytest.raises(ConfigError, match="has batch norm"):
        train_on_distilled(network, told, steps=1)


def test_batches_hold_soft_labels(digits):
    images, labels = torch.randn(6, *digits.shape), torch.randn(6, 10)
    made = ReplacedTrainSplit(digits, images, labels, "these")
    (batch,) = made.train_batches(batch_size=8, epoch=0, seed=0, device=CPU)
    assert torch.equal(batch.labels, labels[batch.indices])
    assert torch.equal(batch.images, images[batch.indices])
    with pytest.raises(ConfigError, match=r"soft labels need \[N, 10\] of float"):
        ReplacedTrainSplit(digits, images, labels[:, :9], "these")
