"""How much students vary with their seed, against the variance by hand."""

import dataclasses

import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.evaluation.finalists import build_finalist
from stillhouse.search.evaluation.seed_variance import variance_stages
from stillhouse.search.execution.builder import build_stages


@pytest.fixture
def students(load, library):
    """A contender over three seeds, two of which are in the library."""
    found = build_finalist("plain", load({"student.training.epochs": 1}), {}, range(3), {})
    for seed in (0, 2):
        for _ in build_stages([found.graphs[seed].student], library):
            pass
    return found


def test_it_is_the_variance_by_hand(students, library):
    stage = variance_stages([students], library)["plain"]
    made = [students.graphs[seed].student for seed in (0, 2)]
    assert stage.parents == tuple(made)
    for _ in build_stages([stage], library):
        pass
    (batch,) = open_data(made[0].data).batches("validation", batch_size=10_000, device="cpu")
    with torch.no_grad():
        one, other = (
            load_network(library.open_artifact(s.key))(batch.images, ())
            .logits.double()
            .softmax(dim=1)
            for s in made
        )
    by_hand = ((one - other) ** 2 / 2).sum(dim=1).mean().item()  # of two values
    assert by_hand > 1e-6
    assert library.record(stage.key).figures == {"variance": pytest.approx(by_hand, rel=1e-6)}


def test_one_student_has_none(students, library, tmp_path):
    assert variance_stages([students], Library(str(tmp_path / "empty"))) == {}
    alone = dataclasses.replace(students, graphs={0: students.graphs[0]})
    assert variance_stages([alone], library) == {}
