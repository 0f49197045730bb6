"""How much students vary with their seed, against the variance by hand."""

import dataclasses

import pytest
import torch

from stillhouse.methods.core.data.dataset import open_data
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import rebuild
from stillhouse.search.evaluation.finalists import contender
from stillhouse.search.evaluation.seed_variance import variances
from stillhouse.search.execution.builder import make_all


@pytest.fixture
def students(load, library):
    """A contender over three seeds, two of which are in the library."""
    found = contender("plain", load({"student.training.epochs": 1}), {}, range(3), {})
    for seed in (0, 2):
        for _ in make_all([found.recipes[seed].student], library):
            pass
    return found


def test_it_is_the_variance_by_hand(students, library):
    stage = variances([students], library)["plain"]
    made = [students.recipes[seed].student for seed in (0, 2)]
    assert stage.parents == tuple(made)
    for _ in make_all([stage], library):
        pass
    (batch,) = open_data(made[0].data).batches("validation", batch_size=10_000, device="cpu")
    with torch.no_grad():
        one, other = (
            rebuild(library.open(s.key))(batch.images, ()).logits.double().softmax(dim=1)
            for s in made
        )
    by_hand = ((one - other) ** 2 / 2).sum(dim=1).mean().item()  # of two values
    assert by_hand > 1e-6
    assert library.record(stage.key).figures == {"variance": pytest.approx(by_hand, rel=1e-6)}


def test_one_student_has_none(students, library, tmp_path):
    assert variances([students], Library(str(tmp_path / "empty"))) == {}
    alone = dataclasses.replace(students, recipes={0: students.recipes[0]})
    assert variances([alone], library) == {}
