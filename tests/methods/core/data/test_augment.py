"""Augmentation against a slow, independent reference, one image at a time in NumPy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.augmentation.augment import Augment, ViewChoices, render
from stillhouse.methods.core.data.augmentation.noise import normal_noise
from stillhouse.spaces.config.problems import ConfigError

MEAN = torch.tensor([0.25, 0.5, 0.75])
STD = torch.tensor([0.1, 0.2, 0.3])


def reference(images: np.ndarray, view: ViewChoices, augment: Augment) -> np.ndarray:
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
    view = augment.draw_view(5, 64, 7, 9)
    found = render(torch.from_numpy(images), view, augment, MEAN, STD)
    assert found.dtype == torch.float32
    assert found.shape == (64, 3, 7, 9)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(found.numpy(), reference(images, view, augment))


def test_grey_images_are_rendered_the_same_way() -> None:
    augment = Augment.parse({"flip": True, "crop": 2, "pad_mode": "reflect"})
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
    view = augment.draw_view(0, 16, 8, 8)
    found = render(torch.from_numpy(images), view, augment, MEAN[:1], STD[:1])
    np.testing.assert_array_equal(found.numpy(), reference(images, view, augment))


def test_choices_are_uniform_over_what_is_allowed() -> None:
    view = Augment.parse({"flip": True, "crop": 2, "cutout": 3}).draw_view(0, 20_000, 6, 10)
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
        found = Augment.parse({"crop": 4, **settings}).draw_view(view, 50, 32, 32).shift
        assert found is not None
        return found.tolist()

    assert shifts(3) == shifts(3)
    assert shifts(3) != shifts(4)
    assert shifts(3) != shifts(3, seed=1)
    # Another kind of change beside it leaves the shifts alone.
    assert shifts(3) == shifts(3, flip=True, cutout=8)


def test_nothing_is_changed_unless_said() -> None:
    augment = Augment()
    assert not augment.is_active
    assert augment.draw_view(0, 10, 8, 8) == ViewChoices(None, None, None)


@pytest.mark.parametrize("settings", [{"crop": -1}, {"views": 0}, {"pad_mode": "wrap"}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Augment.parse(settings)


def numbered(seed: int, place: int) -> tuple[float, float]:
    """One pixel pair's radius and angle in Python's own whole numbers (SplitMix64, Box-Muller)."""
    z = (seed + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    z ^= z >> 31
    radius, turn = (z >> 40) + 1, (z % 2**24) + 1
    return math.sqrt(-2 * math.log(radius / 2**24)), 2 * math.pi * turn / 2**24


@pytest.mark.parametrize("shape", [(2, 3, 1), (3, 3, 1)])
def test_noise_agrees_with_the_reference(shape: tuple[int, ...]) -> None:
    seeds = [0, 1234567, 2**63 - 2]
    size = math.prod(shape)
    pairs = [[numbered(seed, place) for place in range((size + 1) // 2)] for seed in seeds]
    expected = [
        [*(r * math.cos(a) for r, a in row), *(r * math.sin(a) for r, a in row)][:size]
        for row in pairs
    ]
    found = normal_noise(torch.tensor(seeds), shape)
    assert found.shape == (3, *shape)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_noise_is_normal_and_no_pixel_knows_another() -> None:
    view = Augment.parse({"noise": True}).draw_view(0, 400, 16, 16)
    assert view.noise is not None
    found = normal_noise(view.noise, (16, 16, 3)).double()
    count = found.numel()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = found.pow(power).mean().item() - moment
        assert abs(error) < 4 * math.sqrt(spread / count)
    flat = found.flatten(1)
    for other in (flat.roll(1, 0), flat.roll(1, 1), flat.roll(384, 1)):
        assert abs((flat * other).mean().item()) < 4 / math.sqrt(count)
    share = (found.abs() < 1).double().mean().item()
    assert share == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.003)


def test_noise_takes_the_images_place_and_is_normal_after_normalisation() -> None:
    augment = Augment.parse({"noise": True})
    view = augment.draw_view(1, 200, 8, 8)
    found = [
        render(torch.full((200, 8, 8, 3), grey, dtype=torch.uint8), view, augment, MEAN, STD)
        for grey in (0, 255)
    ]
    assert torch.equal(*found)
    assert found[0].dtype == torch.float32
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found[0].mean(dim=(0, 2, 3)), MEAN, atol=0.01)
    assert torch.allclose(found[0].std(dim=(0, 2, 3)), STD, rtol=0.03)


@pytest.mark.parametrize("other", [{"flip": True}, {"crop": 2}, {"cutout": 2}])
def test_noise_leaves_nothing_to_change(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="noise leaves nothing"):
        Augment.parse({"noise": True, **other})
