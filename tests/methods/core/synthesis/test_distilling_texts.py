"""Distilled sentences: points in the space of word vectors that teach a network about texts."""

from __future__ import annotations

import csv
import random

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import embedding_table
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
from stillhouse.spaces.modules.text_layers import LSTM, without_fused_lstm
from stillhouse.spaces.network_spec import NetworkSpec

CPU = torch.device("cpu")
TELLTALE = ("dull", "great", "when", "where", "who", "why")
PLAIN = tuple(f"w{number}" for number in range(12))
LENGTH, DIMENSIONS = 7, 10
SMALL_CNN = {"text_cnn": {"filters": 8, "heights": [1, 2]}}
SMALL_LSTM = {"bilstm": {"hidden": 3}}


def write(folder, classes):
    """Texts of three to seven words, one of which tells the class; and a vector for each word."""
    chance = random.Random(0)
    for part, count in (("train", 240), ("test", 60)):
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for number in range(count):
                words = [chance.choice(PLAIN) for _ in range(chance.randint(2, 6))]
                words.insert(chance.randrange(len(words) + 1), TELLTALE[number % classes])
                table.writerow([" ".join(words), number % classes])
    drawn = np.random.default_rng(0).normal(0.2, 0.5, (len(TELLTALE + PLAIN), DIMENSIONS))
    rows = zip(TELLTALE + PLAIN, drawn, strict=True)
    lines = (f"{word} {' '.join(f'{x:.4f}' for x in vector)}" for word, vector in rows)
    (folder / "vectors.txt").write_text("\n".join(lines), encoding="utf-8")


def opened(folder, classes, **more):
    write(folder, classes)
    text = {"length": LENGTH, "embedding": {"path": "vectors.txt"}, **more}
    told = {"source": {"text": text}, "root": str(folder), "validation": 0.25}
    return open_data(DataConfig.parse(told))


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("six"), 6)


def built(spec, shape=(3, 5, 1), classes=2, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NetworkSpec.parse(spec).build(shape, classes)


def distilled(data, spec=SMALL_CNN, **told):
    """The examples and figures, whoever reports by the way."""
    how = {"rate": 0.1, "lr": 0.1, "batch_size": 60, "halvings": 2} | told
    network = NetworkSpec.parse(spec)
    running = distil(
        lambda: network.build(data.shape, data.classes),
        data,
        Distilling.parse(how),
        seed=0,
        device=CPU,
    )
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value


def test_two_sentences_teach_a_network(two):
    found, figures = distilled(two, examples=2, passes=3, iterations=30)
    assert found.images.shape == (2, DIMENSIONS, LENGTH, 1)
    assert found.labels.shape == (2, 2)
    assert figures["val_accuracy"] > 0.9


def test_three_sentences_know_six_classes(six):
    found, figures = distilled(six, examples=3, iterations=80)
    assert found.labels.shape == (3, 6)
    assert figures["val_accuracy"] > 0.6  # one class a sentence comes to 0.5 at most


@pytest.mark.slow
def test_an_lstm_learns_from_them_too(two):
    """Fused as it is built, which a gradient through the steps does not go through."""
    told = {"rate": 1.0, "iterations": 60, "start": "random", "networks": 2, "judged_on": 3}
    _, figures = distilled(two, SMALL_LSTM, examples=2, **told)
    assert figures["val_accuracy"] > 0.7


def scene(spec):
    """A network, two sentences of three dimensions and five words, a real batch; in float64."""
    network = built(spec).double()
    torch.manual_seed(1)
    found = Examples(
        torch.randn(1, 2, 3, 5, 1, dtype=torch.float64),
        torch.randn(1, 2, 2, dtype=torch.float64),
        torch.randn(3, dtype=torch.float64),
    )
    return network, found, torch.randn(6, 3, 5, 1, dtype=torch.float64), torch.arange(6) % 2


def unroll(network):
    return UnrolledSteps(network, torch.zeros(1), torch.ones(1), softmax=False, num_kept_graphs=1)


@pytest.mark.parametrize(
    "spec", [{"text_cnn": {"filters": 3, "heights": [2, 3]}}, {"bilstm": {"hidden": 2}}]
)
def test_the_gradient_is_that_of_finite_differences(spec):
    network, examples, real, truth = scene(spec)
    taking, start = unroll(network), copy_weights(network)
    _, down = taking.gradient(start, examples, real, truth)
    step = 1e-6
    for place, part in enumerate(examples):
        for i in range(0, part.numel(), max(1, part.numel() // 3)):
            ends = []
            for sign in (1, -1):
                moved = [p.clone() for p in examples]
                moved[place].view(-1)[i] += sign * step
                ends.append(taking.gradient(start, Examples(*moved), real, truth)[0].item())
            slope = (ends[0] - ends[1]) / (2 * step)
            assert down[place].view(-1)[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)
    assert all(part.abs().max() > 1e-4 for part in down)


@pytest.mark.parametrize("spec", [SMALL_CNN, SMALL_LSTM])
def test_several_networks_at_once_are_their_mean(spec):
    _, examples, real, truth = scene(spec)
    networks = [built(spec, seed=seed).double() for seed in range(3)]
    waiting = iter(networks)
    weights = stack_weights(lambda: next(waiting), 3)
    loss, down = unroll(built(spec).double()).gradients(weights, examples, real, truth)
    alone = [unroll(n).gradient(copy_weights(n), examples, real, truth) for n in networks]
    torch.testing.assert_close(loss, torch.stack([one for one, _ in alone]).mean())
    for place, part in enumerate(down):
        torch.testing.assert_close(part, torch.stack([d[place] for _, d in alone]).mean(dim=0))


@pytest.mark.parametrize("spec", [SMALL_CNN, SMALL_LSTM])
def test_a_network_takes_the_steps_that_were_unrolled(spec):
    network, examples, _, _ = scene(spec)
    taking, expected = unroll(built(spec).double()), copy_weights(network)
    for rate in examples.rates:
        expected = taking.step(expected, examples.images[0], examples.labels[0], rate)
    sizes = nn.functional.softplus(examples.rates)
    train_on_distilled(
        network, DistilledSet(examples.images[0], examples.labels[0], sizes), steps=1
    )
    torch.testing.assert_close(copy_weights(network), expected)


def test_an_lstm_is_unfused_for_a_while_and_the_same_function():
    network, _, real, _ = scene({"bilstm": {"hidden": 2, "layers": 2}})
    network.eval()
    lstms = [module for module in network.modules() if isinstance(module, LSTM)]
    fused = network(real, ()).logits
    with without_fused_lstm(network):
        assert not any(lstm.fused for lstm in lstms)
        torch.testing.assert_close(network(real, ()).logits, fused)
    assert len(lstms) == 2
    assert all(lstm.fused for lstm in lstms)


def begun(data, **told):
    return initial_examples(data, Distilling.parse(told), torch.Generator().manual_seed(0))


def training(data):
    """All vectors [N, D, L, 1] of the training split, and their labels."""
    batch = next(iter(data.batches("train", batch_size=1_000, device=CPU)))
    return batch.images, batch.labels


def test_noise_is_spread_as_the_words_are(two):
    """A file's vectors have any mean and deviation; padding, which is zeros, is no word."""
    vectors = embedding_table(two.config).vectors[1:]
    drawn = begun(two, examples=400).images[0].permute(0, 2, 3, 1).flatten(0, 2)
    error = vectors.std(dim=0) / len(drawn) ** 0.5
    assert ((drawn.mean(dim=0) - vectors.mean(dim=0)).abs() < 5 * error).all()
    ratio = drawn.std(dim=0) / vectors.std(dim=0, correction=0)
    assert (ratio - 1).abs().max() < 0.1
    assert (vectors.std(dim=0) < 0.9).all()


def test_real_sentences_are_said_in_their_own_words(two):
    start = begun(two, examples=6, images="real")
    known = embedding_table(two.config)
    images, labels = training(two)
    texts = known.nearest_words(images)
    said = known.nearest_words(start.images[0])
    assert len(set(said)) > 1
    for sentence, label in zip(said, start.labels[0].argmax(dim=1), strict=True):
        assert texts.index(sentence) >= 0
        assert labels[texts.index(sentence)] == label
        assert TELLTALE[label] in sentence.split()
    with (two.config.named_source()[1].files()[0]).open(encoding="utf-8") as file:
        written = {row["text"] for row in csv.DictReader(file)}
    assert {sentence.replace(" <pad>", "") for sentence in said} <= written


def test_sentences_left_as_they_are_stay_real(two):
    found, _ = distilled(two, examples=4, images="real", iterations=3)
    images, _ = training(two)
    real = {tuple(image.flatten().tolist()) for image in images}
    assert {tuple(image.flatten().tolist()) for image in found.images} <= real


def test_means_and_centres_are_of_word_vectors(six):
    images, labels = training(six)
    means = begun(six, examples=6, images="means").images[0]
    for label in range(6):
        torch.testing.assert_close(means[label], images[labels == label].mean(dim=0))
    centre = begun(six, examples=1, classes=[4], images="centres").images[0, 0]
    torch.testing.assert_close(centre, means[4], atol=1e-5, rtol=1e-4)
