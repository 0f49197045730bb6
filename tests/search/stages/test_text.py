"""A search over texts: the same stages, keys and models as for images."""

from __future__ import annotations

import csv
import random

import mlflow.pytorch
import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import embedding_table
from stillhouse.methods.core.data.text.embedding_table import lookup
from stillhouse.search.driver.launch import launch
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.mlflow.model import save_classifier
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.network_spec import NetworkSpec

POSITIVE, NEGATIVE = ("good", "fine", "great"), ("bad", "dull", "poor")
FAST = {"epochs": 3, "batch_size": 32, "optimizer": "adamw", "lr": 0.01}
TAUGHT = {"cross_entropy": {}, "soft_targets": {"weight": 0.7, "temperature": 2.0}}


def reviews(path, count, seed):
    """Six words of no meaning, and among them one of praise or blame."""
    chance = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for number in range(count):
            words = [f"w{chance.randrange(30)}" for _ in range(6)]
            label = ("neg", "pos")[number % 2]
            words.insert(chance.randrange(7), chance.choice((NEGATIVE, POSITIVE)[number % 2]))
            table.writerow([" ".join(words), label])


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The experiment's file as plain data."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    reviews(tmp_path / "train.csv", 240, 0)
    reviews(tmp_path / "test.csv", 60, 1)
    return {
        "name": "reviews",
        "data": {
            "source": {"text": {"length": 8, "embedding": {"dimensions": 12}}},
            "root": str(tmp_path),
            "validation": 0.25,
        },
        "stages": {
            "teacher": {
                "network": {"text_cnn": {"filters": 16}},
                "objective": {"cross_entropy": {}},
                "training": FAST,
            },
            "student": {
                "network": {"bilstm": {"hidden": 4}},
                "teachers": ["teacher"],
                "objective": TAUGHT,
                "training": FAST,
            },
        },
        "search": {"student.training.lr": {"choice": [0.01, 0.03]}},
        "goal": {
            "maximize": "student.val_accuracy",
            "subject_to": {"student.parameters": 1_000, "student.flops": 20_000},
        },
        "run": {"trials": 2, "sampler": "grid", "repeats": {"top": 1, "seeds": 2}},
        "library": str(tmp_path / "library"),
    }


def refused(told):
    with pytest.raises(ConfigError) as caught:
        load_experiment(told)
    return str(caught.value)


def test_stages_rest_on_the_same_words(told):
    told["stages"]["student"]["data"] = {"split_seed": 1}
    message = refused(told)
    assert "student.data: has other words or word vectors than its parent teacher" in message
    assert "\n" not in message
    told["stages"]["student"]["data"] = {"limit": 100}
    assert load_experiment(told).stage_graph().student.data.limit == 100


@pytest.mark.parametrize(
    ("place", "network", "message"),
    [
        ("teacher", "cnn2", "stages.teacher: plain_cnn reads images, and the data holds 8 words"),
        ("student", {"bilstm": {"sees": {"grey": True}}}, "sees: is a view of images"),
    ],
)
def test_networks_for_images_are_refused_before_anything_runs(told, place, network, message):
    told["stages"][place]["network"] = network
    assert message in refused(told)


def test_a_wrong_file_is_told_before_anything_runs(told):
    told["data"]["source"]["text"]["text"] = "review"
    assert "unknown column 'review'" in refused(told)
    assert " data.root: " in refused(told)


@pytest.mark.parametrize("spec", ["text_cnn_small", "bilstm_small"])
@pytest.mark.slow
def test_a_model_is_served_word_vectors(told, tmp_path, spec):
    data = open_data(load_experiment(told).data)
    network = NetworkSpec.parse(spec).build(data.shape, data.classes).eval()
    (batch,) = data.batches("test", batch_size=60, device="cpu")
    save_classifier(network, batch.images, tmp_path / "model", data.facts.class_names)
    loaded = mlflow.pytorch.load_model(str(tmp_path / "model"))
    known = embedding_table(data.config)
    ids = torch.from_numpy(known.vocabulary.encode(["w1 good w2", "w3 bad", "dull w4"], 8))
    vectors = lookup(known.vectors, ids).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(loaded(vectors), network(vectors, ()).logits)


@pytest.mark.slow
def test_a_search_over_texts_ends_with_a_student_that_reads(told):
    launched = launch(load_experiment(told), inline=True)
    assert launched.state == "finished"
    assert len(launched.outcome.trials) == 2
    records = [record for repeat in launched.outcome.seed_runs for record in repeat.records]
    # Of ten examples two may be wrong: the figure depends on the kind of processor.
    assert max(record.figures["val_accuracy"] for record in records) > 0.7
    assert all(record.figures["flops"] <= 20_000 for record in records)
    assert launched.unsent == 0
