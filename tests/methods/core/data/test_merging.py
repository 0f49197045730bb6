"""Some classes only, and classes taught as one: what networks see, and what stays hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError

DIGITS = {"source": "digits", "validation": 0.2}
MERGE = [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def config(**more):
    return DataConfig.parse({**DIGITS, **more})


def whole(data, split):
    return next(data.batches(split, batch_size=10_000, device="cpu"))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_merged_labels_are_the_groups_and_images_stay(split):
    plain, merged = open_data(config()), open_data(config(merge=MERGE))
    one, other = whole(plain, split), whole(merged, split)
    assert torch.equal(one.images, other.images)
    assert torch.equal(other.labels, one.labels % 2)
    assert torch.equal(merged.labels_before_merge(split), one.labels)
    assert plain.labels_before_merge(split) is None


def test_training_batches_hide_the_classes_too():
    merged = open_data(config(merge=MERGE))
    for batch in merged.train_batches(batch_size=100, epoch=0, seed=0, device="cpu"):
        assert torch.equal(batch.labels, merged.labels_before_merge("train")[batch.indices] % 2)


def test_facts_count_what_is_taught():
    told = facts(config(merge=[[0, 1], list(range(2, 10))]))
    assert told.classes == 2
    assert told.class_names[0] == "0 or 1"
    assert told.split_digest == facts(config()).split_digest


def test_some_classes_keep_their_numbers():
    some = open_data(config(classes=[7, 2]))
    assert some.classes == 10
    for split in ("train", "validation", "test"):
        assert set(whole(some, split).labels.tolist()) == {2, 7}
    assert some.task_classes().tolist() == [2, 7]
    assert open_data(config()).task_classes() is None


def test_tasks_share_no_example_and_together_are_all():
    first, second, both = (
        open_data(config(classes=c)) if c else open_data(config())
        for c in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9], None)
    )
    for split in ("train", "validation", "test"):
        sizes = [data.facts.sizes[split] for data in (first, second, both)]
        assert sizes[0] + sizes[1] == sizes[2]


def test_some_classes_merged_are_numbered_by_group():
    data = open_data(config(classes=[0, 4, 5], merge=MERGE))
    assert set(whole(data, "validation").labels.tolist()) == {0, 1}
    assert data.task_classes().tolist() == [0, 1]
    assert open_data(config(classes=[0, 4], merge=MERGE)).task_classes().tolist() == [0]
    assert set(data.labels_before_merge("test").tolist()) == {0, 4, 5}


def test_without_them_the_identity_is_what_it_was():
    identity = config().identity()
    assert "merge" not in identity
    assert "classes" not in identity
    told = [config(), config(merge=MERGE), config(classes=[0, 1]), config(merge=MERGE[::-1])]
    assert len({fingerprint(each.identity()) for each in told}) == len(told)
    shuffled = [[8, 0, 2, 6, 4], MERGE[1]]
    assert config(merge=shuffled).identity() == config(merge=MERGE).identity()
    assert config(classes=[3, 1]).identity() == config(classes=[1, 3]).identity()


def test_judging_is_the_same_whatever_is_trained_on():
    same = [config(), config(limit=50), config(augment={"flip": True})]
    assert len({fingerprint(each.validation_identity()) for each in same}) == 1
    others = [config(), config(classes=[0, 1]), config(merge=MERGE), config(split_seed=1)]
    assert len({fingerprint(each.validation_identity()) for each in others}) == len(others)


@pytest.mark.parametrize(
    ("told", "path", "message"),
    [
        ({"merge": [[0, 1], [2, 3]]}, "merge", "every class of 0 to 9 in one group"),
        ({"merge": [list(range(10)), [3]]}, "merge", "every class of 0 to 9 in one group"),
        ({"merge": [list(range(9)), [10]]}, "merge", "every class of 0 to 9"),
        ({"classes": [0, 10]}, "classes", "names class 10, and there are 0 to 9"),
        ({"classes": [-1, 1]}, "classes", "names class -1"),
    ],
)
def test_classes_that_are_not_there_are_refused(told, path, message):
    with pytest.raises(ConfigError, match=message) as caught:
        facts(config(**told))
    assert caught.value.problems[0].path == path


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"merge": [list(range(10))]}, "two groups"),
        ({"merge": [list(range(10)), []]}, "two groups"),
        ({"classes": [1, 1]}, "each once"),
        ({"classes": []}, "a class or more"),
    ],
)
def test_groups_of_nothing_are_refused(told, message):
    with pytest.raises(ConfigError, match=message):
        config(**told)


def test_normalisation_is_that_of_the_examples_there_are():
    some, all_of_them = facts(config(classes=[0, 1])), facts(config())
    assert some.mean != all_of_them.mean
    assert np.isfinite(some.mean).all()
