"""scene/photos/profile.py: colours in other profiles become those of sRGB, as by Little CMS."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from scene.photos.decode import decode
from scene.photos.profile import SRGB, read_curve, to_srgb

PROPHOTO = np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0, 0, 0.82491]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB_CURVE = [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]


def fixed(*numbers):
    return struct.pack(f">{len(numbers)}i", *(round(65536 * number) for number in numbers))


def para(kind, *numbers):
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(*numbers)


def curv(*points):
    return b"curv\0\0\0\0" + struct.pack(f">I{len(points)}H", len(points), *points)


def profile(matrix, curve, space=b"RGB "):
    """The bytes of a matrix profile, version 4."""
    tags = {b"desc": b"mluc\0\0\0\0" + struct.pack(">IIHHII", 1, 12, 0x656e, 0x5553, 2, 28) + b"\0a\0\0",
            b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True):
            tags[name] = b"XYZ \0\0\0\0" + fixed(*column)
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    start = 132 + 12 * len(tags)
    table = contents = b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(contents), len(content))
        contents += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", start + len(contents), b"\0\0\0\0", 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + contents


def convert(pixels, icc):
    """The same by Little CMS."""
    image = Image.fromarray(pixels)
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(converted).astype(int)


@pytest.fixture(scope="module")
def colors():
    return np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)


CURVES = {
    "a gamma": curv(round(1.8 * 256)),
    "linear": curv(),
    "a table": curv(*(round(65535 * (i / 99) ** 2.2) for i in range(100))),
    "kind 0": para(0, 2.2),
    "kind 1": para(1, 2.0, 1.0, 0.0),
    "kind 2": para(2, 2.0, 1.05, -0.05, 0.0),         # Little CMS would make lighter blacks black
    "kind 3": para(3, *SRGB_CURVE),
    "kind 4": para(4, *SRGB_CURVE, 0.0, 0.0),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("matrix", [PROPHOTO, DISPLAY_P3, ADOBE_RGB], ids=["ProPhoto", "P3", "Adobe"])
def test_colors_are_those_of_little_cms(matrix, curve, colors):
    icc = profile(matrix, CURVES[curve])
    difference = abs(to_srgb(colors, {"icc_profile": icc}).astype(int) - convert(colors, icc))
    assert difference.max() <= 1
    assert abs(colors - convert(colors, icc)).mean() > 3


def by_definition(kind, x, g, a=1.0, b=0.0, c=0.0, d=0.0, e=0.0, f=0.0):
    """A parametric curve at x, as ICC.1:2022 has it in table 68."""
    if kind == 0:
        return x ** g
    if kind == 1:
        return (a * x + b) ** g if x >= -b / a else 0
    if kind == 2:
        return (a * x + b) ** g + c if x >= -b / a else c
    if kind == 3:
        return (a * x + b) ** g if x >= d else c * x
    return (a * x + b) ** g + e if x >= d else c * x + f


@pytest.mark.parametrize("kind, numbers", [
    (0, (1.7,)), (1, (2.1, 1.2, -0.3)), (1, (2.1, 0.8, 0.1)), (2, (1.9, 0.9, -0.2, 0.11)),
    (2, (1.9, 1.3, -0.4, 0.11)),
    (3, (2.4, 0.9, 0.08, 0.3, 0.2)), (4, (2.2, 0.8, 0.05, 0.4, 0.3, 0.07, 0.02)),
])
def test_parametric_curves_are_their_definition(kind, numbers):
    expected = [by_definition(kind, shade / 255, *numbers) for shade in range(256)]
    np.testing.assert_allclose(read_curve(para(kind, *numbers)), expected, atol=1e-4)


@pytest.mark.parametrize("gamma", [float("nan"), float("inf"), -1.0, 1e-5, 42949.67])
def test_a_gamma_that_makes_no_sense_is_ignored(gamma, colors):
    assert to_srgb(colors, {"gamma": gamma}) is colors


def test_srgb_is_left_alone(colors):
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in usual, profile(SRGB, CURVES["kind 3"]):
        assert to_srgb(colors, {"icc_profile": icc}) is colors
    assert to_srgb(colors, {}) is colors
    assert to_srgb(colors, {"gamma": 0.45455}) is colors
    assert to_srgb(colors, {"gamma": 1.0, "srgb": 0}) is colors     # sRGB overrides gAMA


def test_light_of_a_linear_png(colors):
    expected = to_srgb(colors, {"icc_profile": profile(SRGB, curv())})
    assert abs(to_srgb(colors, {"gamma": 1.0}).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_a_photo_in_another_profile_looks_as_it_does_in_srgb(kind):
    """A muted colour that both hold: in ProPhoto it has other numbers."""
    icc = profile(PROPHOTO, curv(round(1.8 * 256)))
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (120, 100, 80)).save(file, kind, icc_profile=icc, quality=100)
    expected = convert(np.full((1, 1, 3), (120, 100, 80), np.uint8), icc)[0, 0]
    assert abs(decode(file.getvalue(), 8).astype(int) - expected).max() <= 3
    assert abs(expected - (120, 100, 80)).max() > 15


def test_grey_has_a_curve_only():
    icc = profile(None, curv(), b"GRAY")
    file = io.BytesIO()
    Image.new("L", (20, 20), 55).save(file, "PNG", icc_profile=icc)
    assert set(decode(file.getvalue(), 8).flat) == {128}            # 55/255 of the light is shade 128 of sRGB


BROKEN = {
    "nothing": b"",
    "text": b"profile",
    "a header": bytes(128),
    "no tags": profile(PROPHOTO, curv())[:128] + bytes(4),
    "for printers": profile(PROPHOTO, curv(), b"CMYK"),
    "a tag behind the end": profile(PROPHOTO, curv())[:300],
    "a table of more than there is": profile(PROPHOTO, b"curv\0\0\0\0\xff\xff\xff\xff"),
    "an unknown curve": profile(PROPHOTO, b"sf32" + bytes(40)),
    "an unknown kind": profile(PROPHOTO, para(9, 1.0)),
    "a curve of NaN": profile(PROPHOTO, para(1, 2.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_cannot_be_used_never_costs_the_photo(name, colors):
    assert to_srgb(colors, {"icc_profile": BROKEN[name]}) is colors


CHANGES = st.lists(st.tuples(st.integers(128, 600), st.integers(0, 255)), max_size=12)


@given(CHANGES, st.sampled_from(sorted(CURVES)))
def test_any_profile_gives_colors(changes, curve):
    icc = bytearray(profile(PROPHOTO, CURVES[curve]))
    for place, value in changes:
        icc[place % len(icc)] = value
    shades = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    found = to_srgb(shades, {"icc_profile": bytes(icc)})
    assert (found.shape, found.dtype) == (shades.shape, np.uint8)
