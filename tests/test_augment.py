"""Augmentation: ranges, seeds, and each step against torch, Pillow or its definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scene.learn.augment import augment, crop, fade, interpolation, relight
from tests.strategies import seeds

photos = st.tuples(st.integers(1, 5), st.integers(2, 20))


def draw(n, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, size, size, 3), generator=generator, dtype=torch.uint8), generator


@given(photos, seeds)
def test_values_stay_in_their_range(shape, seed):
    x, generator = draw(*shape, seed)
    y = augment(x, 7, 0.5, 0.1, generator)
    assert y.shape == (shape[0], 7, 7, 3) and y.dtype == torch.float32
    assert y.min() >= 0 and y.max() <= 255


@given(photos, seeds)
def test_the_same_seed_gives_the_same_photos(shape, seed):
    x, _ = draw(*shape, seed)
    generators = [torch.Generator().manual_seed(s) for s in (seed, seed, seed + 1)]
    first, second, other = (augment(x, 9, 0.5, 0.1, generator) for generator in generators)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@given(photos, seeds)
def test_one_colour_stays_that_colour_when_cropped(shape, seed):
    n, size = shape
    x = torch.full((n, size, size, 3), 77, dtype=torch.uint8)
    cropped = crop(x, 5, 0.3, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(cropped, torch.full((n, 5, 5, 3), 77.0))


@given(st.integers(1, 30))
def test_the_whole_photo_is_the_identity_and_backwards_its_mirror(size):
    whole = interpolation(torch.tensor([0.0]), torch.tensor([1.0]), size, size)[0]
    mirror = interpolation(torch.tensor([1.0]), torch.tensor([-1.0]), size, size)[0]
    torch.testing.assert_close(whole, torch.eye(size), atol=1e-5, rtol=0)
    torch.testing.assert_close(mirror, torch.eye(size).flip(0), atol=1e-5, rtol=0)


@given(st.integers(1, 20), st.integers(1, 40), seeds)
def test_resizing_is_that_of_torch(source, size, seed):
    """With antialiasing, which has no effect on enlarging."""
    x = torch.randn(source, generator=torch.Generator().manual_seed(seed))
    ours = interpolation(torch.tensor([0.0]), torch.tensor([1.0]), source, size)[0] @ x
    columns = x[None, None, :, None].repeat(1, 1, 1, 2)
    theirs = F.interpolate(columns, (size, 2), mode="bilinear", antialias=True)[0, 0, :, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@given(st.integers(2, 6), st.integers(0, 3), seeds)
def test_a_crop_is_its_part_resized(half, left, seed):
    """Not compared at the crop's edge, where ours may use pixels outside the crop."""
    source = 8 * half
    x = torch.randn(source, generator=torch.Generator().manual_seed(seed))
    ours = interpolation(torch.tensor([left / source]), torch.tensor([0.25]), source, source)[0] @ x
    theirs = F.interpolate(x[None, None, left:left + 2 * half], scale_factor=4, mode="linear")[0, 0]
    torch.testing.assert_close(ours[2:-2], theirs[2:-2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("area", [0.3, 0.8])
def test_crops_have_the_areas_and_shapes_that_they_should(area):
    """The photo's colours are its coordinates, so a crop shows where it was taken."""
    size = 64
    n = 500
    position = torch.arange(size, dtype=torch.uint8)
    rows = position[:, None].expand(size, size)
    columns = position.expand(size, size)
    x = torch.stack([rows, columns, torch.zeros(size, size)], 2)
    y = crop(x.expand(n, size, size, 3), 32, area, torch.Generator().manual_seed(0))
    height = (y[:, -2, 16, 0] - y[:, 1, 16, 0]) / 29 * 32 / size            # from pixel 1 to pixel 30 of 32
    width = (y[:, 16, -2, 1] - y[:, 16, 1, 1]).abs() / 29 * 32 / size
    shares = height * width
    aspects = width / height
    assert shares.min() > area * 0.9 and shares.max() <= 1.01
    assert shares.std() > (1 - area) / 6
    assert aspects.min() > 0.7 and aspects.max() < 1.4 and aspects.log().std() > 0.05
    top = y[:, 1, 16, 0] / size
    left = torch.minimum(y[:, 16, 1, 1], y[:, 16, -2, 1]) / size
    assert (top > 0.05).float().mean() > 0.2 and (left > 0.05).float().mean() > 0.2


@given(photos, st.floats(0, 1), seeds)
def test_the_first_photos_become_grey_as_pillow_has_it(shape, share, seed):
    x, _ = draw(*shape, seed)
    y = fade(x.float(), share)
    few = round(share * len(x))
    assert torch.equal(y[few:], x[few:].float())
    for ours, photo in zip(y[:few], x[:few], strict=True):
        theirs = torch.from_numpy(np.array(Image.fromarray(photo.numpy()).convert("L")))
        theirs = theirs[..., None].expand(-1, -1, 3).float()
        torch.testing.assert_close(ours, theirs, atol=0.6, rtol=0)          # Pillow rounds


def test_training_sees_a_few_grey_photos():
    x, generator = draw(40, 8, 0)
    y = augment(x, 8, 1, 0.1, generator)
    spread = y.max(3).values - y.min(3).values
    assert (spread.mean((1, 2)) < 20).sum() == 4                # relight tints them a little


def test_contrast_varies_around_the_mean():
    x = torch.full((300, 2, 2, 3), 100.0)
    x[:, 0] = 140
    y = relight(x, 0.2, torch.Generator().manual_seed(0))
    ratio = (y[:, 0, 0] - y[:, 1, 0]) / 40 / (y.mean((1, 2)) / 120)         # contrast, without brightness
    assert 0.799 <= ratio.min() < 0.85 and 1.15 < ratio.max() <= 1.201 and ratio.std() > 0.08
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1])


def test_light_and_each_colour_vary_both_ways():
    """Every photo is of one colour, so that contrast changes nothing."""
    y = relight(torch.full((500, 2, 2, 3), 100.0), 0.2, torch.Generator().manual_seed(0))[:, 0, 0] / 100
    tint = y[:, 0] / y[:, 1]                                # two numbers of 0.9…1.1
    assert 0.9 / 1.1 - 1e-3 <= tint.min() < 0.87 and 1.15 < tint.max() <= 1.1 / 0.9 + 1e-3
    light = y.mean(1)                                       # 0.8…1.2, times the mean tint
    assert light.min() < 0.85 and light.max() > 1.15 and abs(light.mean() - 1) < 0.02


def test_half_of_the_photos_are_mirrored():
    x = torch.arange(8, dtype=torch.uint8)                                      # brighter to the right
    x = x.repeat(400, 8, 1)[..., None].expand(-1, -1, -1, 3)                    # (8,) -> (400, 8, 8, 3)
    y = crop(x, 8, 1, torch.Generator().manual_seed(0))
    assert 150 < (y[:, 0, 0, 0] > y[:, 0, -1, 0]).sum() < 250


def test_no_strength_is_no_change():
    x, generator = draw(3, 5, 0)
    torch.testing.assert_close(relight(x.float(), 0, generator), x.float())


@pytest.mark.parametrize("strength", [0.1, 0.3])
def test_light_varies_as_much_as_asked(strength):
    x = torch.full((500, 2, 2, 3), 100.0)
    y = relight(x, strength, torch.Generator().manual_seed(0))
    assert y.min() >= 100 * (1 - strength) * (1 - strength / 2) - 1e-3
    assert y.max() <= 100 * (1 + strength) * (1 + strength / 2) + 1e-3
    assert y.std() > 100 * strength / 4
