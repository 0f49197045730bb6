"""Augmentation against a slow, independent reference, one image at a time in NumPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from methods.core.data.augment import Augment, View, render
from spaces.problem import ConfigError

MEAN = torch.tensor([0.25, 0.5, 0.75])


def reference(images: np.ndarray, view: View, augment: Augment) -> np.ndarray:
    """[B, H, W, C] uint8 -> [B, C, H, W]: pad, cut a window, mirror, blot out a square."""
    count, height, width, _ = images.shape
    results = []
    for n in range(count):
        one = images[n]
        if view.shift is not None:
            pad = augment.crop
            mode = "constant" if augment.pad_mode == "zero" else "reflect"
            padded = np.pad(one, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
            top, left = (pad + int(move) for move in view.shift[n])
            one = padded[top : top + height, left : left + width]
        if view.flip is not None and view.flip[n]:
            one = one[:, ::-1]
        result = one.astype(np.float32) / np.float32(255)
        if view.centre is not None:
            row, column = (int(place) for place in view.centre[n])
            half, side = augment.cutout // 2, augment.cutout
            for y, x in product(range(height), range(width)):
                if 0 <= y - row + half < side and 0 <= x - column + half < side:
                    result[y, x] = MEAN.numpy()
        results.append(result.transpose(2, 0, 1))
    return np.stack(results)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("crop", "pad_mode"), [(0, "zero"), (3, "zero"), (3, "reflect")])
@pytest.mark.parametrize("cutout", [0, 3, 4])
def test_rendering_agrees_with_the_reference(
    flip: bool, crop: int, pad_mode: str, cutout: int
) -> None:
    settings = {"flip": flip, "crop": crop, "pad_mode": pad_mode, "cutout": cutout}
    augment = Augment.parse(settings)
    images = np.random.default_rng(0).integers(0, 256, (64, 7, 9, 3), dtype=np.uint8)
    view = augment.draw(5, 64, 7, 9)
    found = render(torch.from_numpy(images), view, augment, MEAN)
    assert found.dtype == torch.float32
    assert found.shape == (64, 3, 7, 9)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(found.numpy(), reference(images, view, augment))


def test_grey_images_are_rendered_the_same_way() -> None:
    augment = Augment.parse({"flip": True, "crop": 2, "pad_mode": "reflect"})
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
    view = augment.draw(0, 16, 8, 8)
    found = render(torch.from_numpy(images), view, augment, MEAN[:1])
    np.testing.assert_array_equal(found.numpy(), reference(images, view, augment))


def test_choices_are_uniform_over_what_is_allowed() -> None:
    view = Augment.parse({"flip": True, "crop": 2, "cutout": 3}).draw(0, 20_000, 6, 10)
    assert view.flip is not None
    assert view.shift is not None
    assert view.centre is not None
    assert abs(view.flip.float().mean().item() - 0.5) < 0.02
    for moves in view.shift.T:
        share = torch.bincount(moves + 2) / 20_000
        assert torch.allclose(share, torch.full((5,), 0.2), atol=0.02)
    for places, size in zip(view.centre.T, (6, 10), strict=True):
        share = torch.bincount(places) / 20_000
        assert torch.allclose(share, torch.full((size,), 1 / size), atol=0.02)


def test_choices_depend_on_seed_and_view_and_on_nothing_else() -> None:
    def shifts(view: int, **settings: object) -> list[list[int]]:
        found = Augment.parse({"crop": 4, **settings}).draw(view, 50, 32, 32).shift
        assert found is not None
        return found.tolist()

    assert shifts(3) == shifts(3)
    assert shifts(3) != shifts(4)
    assert shifts(3) != shifts(3, seed=1)
    # Another kind of change beside it leaves the shifts alone.
    assert shifts(3) == shifts(3, flip=True, cutout=8)


def test_nothing_is_changed_unless_said() -> None:
    augment = Augment()
    assert not augment.active
    assert augment.draw(0, 10, 8, 8) == View(None, None, None)


@pytest.mark.parametrize("settings", [{"crop": -1}, {"views": 0}, {"pad_mode": "wrap"}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Augment.parse(settings)
