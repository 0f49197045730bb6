"""Mixup, CutMix and RandAugment: by hand, whatever the order and the batch, the same for ever."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from stillhouse.methods.core.data.augmentation.augment import Augment
from stillhouse.methods.core.data.augmentation.mixing import Mix, draw_mix, mix_images, mix_labels
from stillhouse.methods.core.data.augmentation.randaugment import (
    OPERATIONS,
    apply_changes,
    draw_changes,
)
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.objective.objective import Objective


def mix(share, blend, box):
    return Mix(torch.tensor([0]), torch.tensor([share]), torch.tensor([blend]), torch.tensor([box]))


def test_mixup_is_the_weighted_mean_of_images_and_labels():
    one, other = torch.full((1, 2, 3, 4), 0.2), torch.full((1, 2, 3, 4), 0.6)
    how = mix(0.75, 0.75, [1, 1, 1, 1])
    torch.testing.assert_close(mix_images(one, other, how), torch.full((1, 2, 3, 4), 0.3))
    told = mix_labels(torch.tensor([2]), torch.tensor([0]), how, 3)
    torch.testing.assert_close(told, torch.tensor([[0.25, 0.0, 0.75]]))
    same = mix_labels(torch.tensor([1]), torch.tensor([1]), how, 3)
    torch.testing.assert_close(same, torch.tensor([[0.0, 1.0, 0.0]]))


def test_cutmix_puts_a_box_of_the_other_image():
    one, other = torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 4)
    found = mix_images(one, other, mix(0.5, 1.0, [0, 1, 2, 4]))
    assert found[0, 0].tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]


def test_soft_labels_are_mixed_too():
    told = mix_labels(
        torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), mix(0.5, 0.5, [0] * 4), 2
    )
    torch.testing.assert_close(told, torch.tensor([[0.25, 0.75]]))


def test_shares_follow_their_distribution_and_boxes_their_shares():
    """Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1))."""
    for alpha in (0.2, 1.0):
        found = draw_mix(alpha, 0.0, (1,), 20_000, 8, 8)
        assert found.share.mean().item() == pytest.approx(0.5, abs=0.01)
        assert found.share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)
        assert torch.equal(found.share, found.blend)
        assert sorted(found.partner.tolist()) == list(range(20_000))
    boxed = draw_mix(0.0, 1.0, (1,), 20_000, 8, 10)
    top, left, bottom, right = boxed.box.unbind(1)
    area = (bottom - top) * (right - left)
    torch.testing.assert_close(boxed.share, 1 - area.float() / 80)
    assert bottom.max() == 8
    assert right.max() == 10
    assert boxed.box.min() == 0
    assert boxed.blend.unique().tolist() == [1.0]
    both = draw_mix(0.5, 1.0, (1,), 20_000, 8, 8)
    assert (both.blend == 1.0).float().mean().item() == pytest.approx(0.5, abs=0.02)


DATA = {"source": "digits", "limit": 60, "validation": 0.5}


def batches(augment, size, epoch=0, seed=0):
    data = open_data(DataConfig.parse({**DATA, "augment": augment}))
    return list(data.train_batches(batch_size=size, epoch=epoch, seed=seed, device="cpu"))


@pytest.mark.parametrize(
    "augment",
    [
        {"mixup": 0.4},
        {"cutmix": 1.0, "flip": True},
        {"mixup": 0.4, "cutmix": 1.0, "crop": 2},
        {"randaugment": 2, "crop": 1},
    ],
)
def test_a_view_is_the_same_whatever_the_order_and_the_batch(augment):
    def by_index(size, seed):
        parts = batches(augment, size, seed=seed)
        order = torch.cat([b.indices for b in parts]).argsort()
        images = torch.cat([b.images for b in parts])[order]
        return images, torch.cat([b.labels for b in parts])[order]

    images, labels = by_index(16, 0)
    others, same = by_index(7, 3)
    torch.testing.assert_close(images, others)
    torch.testing.assert_close(labels, same)
    later = batches({**augment}, 60, epoch=1)
    assert not torch.equal(torch.cat([b.images for b in later]).sum(0), images.sum(0))


def test_labels_of_mixed_examples_are_soft_and_whole():
    (batch,) = batches({"mixup": 1.0}, 60)
    assert batch.labels.shape == (60, 10)
    torch.testing.assert_close(batch.labels.sum(1), torch.ones(60))
    (plain,) = batches({}, 60)
    assert plain.labels.dtype == torch.int64
    data = open_data(DataConfig.parse({**DATA, "augment": {"mixup": 1.0}}))
    held_out = next(data.batches("validation", batch_size=10, device="cpu"))
    assert held_out.labels.dtype == torch.int64


def test_what_is_off_is_in_no_key():
    assert Augment().identity().keys() == {"flip", "crop", "pad_mode", "cutout", "views", "seed"}
    assert "magnitude" in Augment(randaugment=1).identity()
    assert Augment(mixup=0.2).identity()["mixup"] == 0.2


# RandAugment


def photo(seed=0, side=12):
    torch.manual_seed(seed)
    return torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8)


NAMES = {"colour": "Color", "posterize": "Posterize", "autocontrast": "AutoContrast"}


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_change_is_torchvisions(name, magnitude, monkeypatch):
    """Against its own RandAugment, made to choose this change."""
    number = list(OPERATIONS).index(name) + 1
    signed = OPERATIONS[name][1]
    images = photo()
    own = NAMES.get(name, "".join(part.capitalize() for part in name.split("_")))
    for sign in (1, -1) if signed else (1,):
        found = apply_changes(images, np.full((5, 1), sign * number), magnitude)
        theirs = v2.RandAugment(num_ops=1, magnitude=magnitude)
        item = (own, theirs._AUGMENTATION_SPACE[own])
        monkeypatch.setattr(theirs, "_get_random_item", lambda _, item=item: item)
        monkeypatch.setattr(torch, "rand", lambda *_, s=sign: torch.tensor(0.0 if s < 0 else 1.0))
        told = theirs(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # Theirs computes magnitudes in float32, which may round a pixel otherwise.
        assert (found.int() - told.int()).abs().max() <= 1, sign


def test_each_image_has_its_own_changes_in_their_order():
    images = photo()
    numbers = np.array([[1, 1], [6, 14], [-6, 12], [14, 6], [10, -7]])
    together = apply_changes(images, numbers, 9)
    for i in range(5):
        alone = apply_changes(images[i : i + 1], numbers[i : i + 1], 9)
        assert torch.equal(together[i : i + 1], alone)
    assert torch.equal(together[0], images[0])


def test_all_changes_are_drawn_equally_and_only_some_are_negative():
    numbers = draw_changes(np.random.RandomState(0), 14_000, 2)
    counts = np.bincount(abs(numbers).flatten())[1:]
    assert len(counts) == 14
    assert abs(counts / 2000 - 1).max() < 0.1
    negative = {list(OPERATIONS)[n - 1] for n in -numbers[numbers < 0]}
    assert negative == {name for name, (_, signed) in OPERATIONS.items() if signed}


def test_cross_entropy_with_mixed_labels_is_the_mixed_cross_entropy():
    from stillhouse.methods.core.data.base.batch import Batch
    from stillhouse.methods.cross_entropy import CrossEntropy
    from stillhouse.spaces.modules.network import Output

    logits = torch.randn(4, 3)
    one, other, share = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2]), torch.rand(4)
    how = Mix(one, share, share, torch.zeros(4, 4, dtype=torch.int64))
    method = CrossEntropy(CrossEntropy.Config(), None)

    def loss(labels):
        batch = Batch(torch.zeros(4, 1, 1, 1), labels, torch.arange(4))
        return method(Output(logits, {}), [], batch, None)

    log_q = logits.log_softmax(1)
    each = share * log_q.gather(1, one[:, None])[:, 0]
    each = each + (1 - share) * log_q.gather(1, other[:, None])[:, 0]
    torch.testing.assert_close(loss(mix_labels(one, other, how, 3)), -each.mean())
    assert Objective.parse({"cross_entropy": {}}).methods_needing_hard_labels == ()
