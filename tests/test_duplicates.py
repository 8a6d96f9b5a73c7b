"""photos/duplicates.py: changed copies are found, different photos are not, in any order and number."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from scene.learn.augment import interpolation
from scene.photos import decode, duplicates
from scene.photos.duplicates import Groups, find_groups, join_bursts, shrink
from tests.strategies import seeds


def scene_like(seed, size=96):
    """A picture with coarse and fine structure, like a photo: noise at many scales."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((size, size, 3))
    for side in (3, 6, 12, 24, 48):
        noise = random.integers(256, size=(side, side, 3)).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)) / 5.0
    return Image.fromarray(np.clip((pixels - 128) * 2 + 128, 0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", quality=90):
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return file.getvalue()


def cropped(image, left=0.0, top=0.0, right=0.0, bottom=0.0):
    w, h = image.size
    return image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom))))


def mirrored(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES = {
    "half size": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "quality 40": lambda image: encoded(image, quality=40),
    "WebP": lambda image: encoded(image, "WebP", 40),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.3)),
    "darker": lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.7)),
    "mirrored": lambda image: encoded(mirrored(image)),
    "grey": lambda image: encoded(image.convert("L")),
    "cropped at the left": lambda image: encoded(cropped(image, left=0.05)),
    "cropped at the bottom": lambda image: encoded(cropped(image, bottom=0.05)),
    "cropped at two sides": lambda image: encoded(cropped(image, left=0.05, top=0.05)),
    "cropped at all sides": lambda image: encoded(cropped(image, 0.05, 0.05, 0.05, 0.05)),
    "mirrored, cropped, compressed": lambda image: encoded(cropped(mirrored(image), top=0.05), quality=60),
}
PHOTOS = 40


def pictures(data, size=80):
    return np.array([shrink(decode.decode(photo, size)) for photo in data])


@pytest.fixture(scope="module")
def originals():
    return [scene_like(seed) for seed in range(PHOTOS)]


@pytest.mark.parametrize("size", [24, 80])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_found_and_nothing_else(name, size, originals):
    data = [encoded(image) for image in originals] + [CHANGES[name](image) for image in originals]
    groups = find_groups(list(range(2 * PHOTOS)), pictures(data, size))
    assert groups[:PHOTOS].tolist() == list(range(PHOTOS)), "different photos are different"
    found = groups[PHOTOS:] == np.arange(PHOTOS)
    assert found.mean() >= 0.95
    assert (groups[PHOTOS:][~found] >= PHOTOS).all(), "none is taken for a copy of another photo"


def plain(color):
    return Image.new("RGB", (64, 64), color)


def gradient(angle):
    y, x = np.mgrid[0:64, 0:64] / 64
    grey = 40 + 170 * (x * math.cos(angle) ** 2 + y * math.sin(angle) ** 2)
    return Image.fromarray(np.repeat(grey[:, :, None], 3, 2).astype(np.uint8))


def test_the_parts_in_which_pictures_are_compared_change_nothing(monkeypatch, originals):
    """A million pictures are compared by parts, for lack of memory."""
    images = [change for image in originals[:8] for change in (image, mirrored(image))]
    small = pictures([encoded(image) for image in images])
    whole = find_groups(list(range(16)), small).tolist()
    assert whole == [i // 2 * 2 for i in range(16)]
    monkeypatch.setattr(duplicates, "QUERIES", 5)
    monkeypatch.setattr(duplicates, "PAIRS", 3)
    assert find_groups(list(range(16)), small).tolist() == whole


def test_pictures_without_detail_are_no_near_copies():
    colors = [(200, 0, 0), (0, 0, 200), (100, 100, 100), (0, 0, 0), (255, 255, 255), (101, 100, 100)]
    images = [plain(color) for color in colors] + [gradient(angle) for angle in (0, 0.01, 0.3, 1.5)]
    groups = find_groups(list(range(len(images))), pictures([encoded(image) for image in images]))
    assert groups.tolist() == list(range(len(images)))


def test_exact_copies_are_found_whatever_they_show():
    blank = np.zeros((5, duplicates.SIDE, duplicates.SIDE), np.uint8)
    assert find_groups([b"a", b"b", None, b"a", None], blank).tolist() == [0, 1, 2, 0, 4]
    assert find_groups([], blank[:0]).tolist() == []


def test_tiny_photos_of_noise_are_different():
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(256, size=(8, 8, 3)).astype(np.uint8)) for _ in range(100)]
    groups = find_groups(list(range(100)), pictures([encoded(image, "PNG") for image in images]))
    assert groups.tolist() == list(range(100))


def test_thousands_of_frames_of_one_camera_are_one_group_without_comparing_all_pairs(monkeypatch):
    """All of them share a key: comparing each with each would take 80 000 comparisons."""
    compared = []
    alike = duplicates.are_alike
    monkeypatch.setattr(duplicates, "are_alike", lambda a, b: compared.append(len(a)) or alike(a, b))
    frame = pictures([encoded(scene_like(1))])[0].astype(int)
    noise = np.random.default_rng(0).integers(-3, 4, size=(400, *frame.shape))
    groups = find_groups(list(range(400)), np.clip(frame + noise, 0, 255).astype(np.uint8))
    assert (groups == 0).all()
    assert sum(compared) < 20 * 400


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_the_connected_components(pairs):
    groups = Groups(20)
    reach = np.eye(20, dtype=bool)
    for i, j in pairs:
        groups.join(i, j)
        reach[i, j] = reach[j, i] = True
    for _ in range(5):
        reach = reach @ reach
    assert groups.labels().tolist() == reach.argmax(1).tolist(), "each is known by its smallest number"


@settings(max_examples=20)
@given(seeds, st.floats(-0.06, 0.06), st.floats(0.93, 1.0))
def test_alignment_undoes_a_crop(seed, start, extent):
    a = pictures([encoded(scene_like(seed % 50))]).astype(np.float32)
    place = np.float32([[max(0, start), extent, max(0, -start), extent]])
    b = duplicates.cut(a, place)
    inner = slice(2, -2)
    before, after = (abs(x - b)[0, inner, inner].mean() for x in (a, duplicates.align(a, b)))
    assert after <= max(0.5 * before, 1.0)


# Bursts


def test_a_burst_is_photos_of_a_class_within_seconds():
    times = np.array([0, 8, 16, 40, 5, math.nan, math.nan])
    classes = ["sea", "sea", "sea", "sea", "road", "sea", "sea"]
    assert join_bursts(np.arange(7), classes, times).tolist() == [0, 0, 0, 3, 4, 5, 6]
    copies = np.array([0, 1, 2, 3, 4, 5, 3])
    assert join_bursts(copies, classes, times).tolist() == [0, 0, 0, 3, 4, 5, 3]


@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
@pytest.mark.parametrize("where", ["the tag for it", "the first folder", "the time of the file"])
def test_the_time_comes_from_exif(kind, where):
    exif = Image.Exif()
    text = "2024:05:17 10:20:30"
    if where == "the tag for it":
        exif.get_ifd(0x8769)[0x9003] = text
    else:
        exif[0x9003 if where == "the first folder" else 0x0132] = text
    file = io.BytesIO()
    scene_like(0).save(file, kind, exif=exif)
    later = file.getvalue().replace(b"10:20:30", b"10:20:37")
    assert decode.find_time(later) - decode.find_time(file.getvalue()) == 7
    assert decode.find_time(file.getvalue()) > 1.7e9


@pytest.mark.parametrize("text", ["", "0000:00:00 00:00:00", "yesterday", "2024:13:01 00:00:00"])
def test_a_time_that_is_none(text):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = text
    file = io.BytesIO()
    scene_like(0).save(file, "JPEG", exif=exif)
    assert math.isnan(decode.find_time(file.getvalue()))
    assert math.isnan(decode.find_time(encoded(scene_like(0))))
    assert math.isnan(decode.find_time(b"no photo"))


@given(st.floats(0, 0.4), st.floats(0.1, 0.6), st.sampled_from([5, 16, 40, 90]))
def test_parts_are_resampled_as_crops_are_and_the_edge_is_repeated(start, extent, source):
    """learn/augment.py has the same weights, but renormalises them at the edge."""
    start, extent = (np.array([number], np.float32) for number in (start, extent))
    found = duplicates.resampling(start, extent, source)[0]
    other = interpolation(torch.from_numpy(start), torch.from_numpy(extent), source, duplicates.SIDE)[0]
    centre = (start + (np.arange(duplicates.SIDE) + 0.5) / duplicates.SIDE * extent) * source - 0.5
    reach = max(1, extent[0] * source / duplicates.SIDE)
    inside = (centre > reach) & (centre < source - 1 - reach)
    np.testing.assert_allclose(found[inside], other.numpy()[inside], atol=2e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert (found[centre < 0].argmax(1) == 0).all()


def test_a_whole_picture_is_shrunk_by_averaging():
    """Each of 16 rows from 64 mixes those within 4 of its middle: 1/16 of (1, 3, 5, 7, 7, 5, 3, 1) / 2."""
    rows = duplicates.resampling(np.float32([0]), np.float32([1]), 4 * duplicates.SIDE)[0]
    weights = np.float32([1, 3, 5, 7, 7, 5, 3, 1]) / 32
    np.testing.assert_allclose(rows[1, 1:11], [0, *weights, 0], atol=1e-6)
