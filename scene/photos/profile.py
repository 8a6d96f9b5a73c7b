"""Colour profiles: from the colours of a camera, a screen or a program to those of sRGB.

A matrix profile (ICC.1, 8.3 and 10) says how much light each number stands for, by a curve, and which colours
red, green and blue are, in XYZ. With the curves c and the matrix M of the profile, and S of sRGB:

    light = c(pixels / 255)        sRGB = curve⁻¹(S⁻¹ M light)

Photos without a profile are in sRGB. Profiles that are tables of colours, as for printers, are ignored.

Next: findings.py
"""

import struct

import numpy as np

# The columns are red, green and blue in XYZ under D50, the light of all ICC profiles. Source: IEC 61966-2-1,
# adapted by Bradford's method.
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
CLOSE = 0.02                # profiles that differ by less from sRGB are sRGB, written by another program
SHADES = np.arange(256) / 255


def to_srgb(pixels: np.ndarray, info: dict) -> np.ndarray:
    """Pixels (H, W, 3) uint8 -> the same colours in sRGB.   info: Pillow's, of the photo."""
    found = read_profile(info)
    if found is None:
        return pixels
    curves, matrix = found
    light = np.stack([curve[pixels[..., i]] for i, curve in enumerate(curves)], -1) @ matrix.T
    return np.rint(255 * encode(light.clip(0, 1))).astype(np.uint8)


def read_profile(info):
    """(curves (3, 256), matrix (3, 3) to sRGB's red, green and blue) of a photo, or None if it is in sRGB.

    A profile that is broken or of another kind does not make a photo unusable: it is ignored.
    """
    try:
        with np.errstate(all="ignore"):
            if info.get("icc_profile"):
                curves, matrix = parse(info["icc_profile"])
            elif 0.1 < info.get("gamma", 0) < 10 and "srgb" not in info:    # a PNG, with a gamma that can be
                curves, matrix = [SHADES ** (1 / info["gamma"])] * 3, np.eye(3)
            else:
                return None
            curves = np.clip(curves, 0, 1)
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error):
        return None
    if np.isnan(curves).any() or not np.isfinite(matrix).all():
        return None
    same = abs(curves - decode(SHADES)).max() < CLOSE and abs(matrix - np.eye(3)).max() < CLOSE
    return None if same else (curves, matrix)


def decode(values):
    """sRGB's curve: numbers from 0 to 1 -> light."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode(light):
    """The inverse of `decode`."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def parse(profile):
    """(curves, matrix) of a matrix profile for RGB or grey. Raises ValueError, KeyError or struct.error."""
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, 100))]
    tags = {name: profile[start:start + size] for name, start, size in entries}
    if profile[16:20] == b"GRAY":
        return [read_curve(tags[b"kTRC"])] * 3, np.eye(3)
    if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ ":
        raise ValueError("not a matrix profile")
    columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    matrix = np.linalg.inv(SRGB) @ (np.array(columns).T / 65536)
    return [read_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")], matrix


def read_curve(tag):
    """The light that each of the 256 shades stands for, by a tag of kind curv or para."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        points = np.frombuffer(tag, ">u2", count, 12)
        if count == 0:
            return SHADES
        if count == 1:
            return SHADES ** (points[0] / 256)
        return np.interp(SHADES, np.linspace(0, 1, count), points / 65535)
    if tag[:4] != b"para":
        raise ValueError("not a curve")
    return parametric(*read_parameters(tag))


def read_parameters(tag):
    """(g, a, b, c, d, e, f) of a parametric curve of any of its five kinds (ICC.1, 10.18)."""
    (kind,) = struct.unpack_from(">H", tag, 8)
    numbers = [number / 65536 for number in struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)]
    g, a, b, c, d, e, f = numbers + [1, 0, 0, 0, 0, 0][len(numbers) - 1:]
    if kind == 1:
        return g, a, b, 0, -b / a, 0, 0
    if kind == 2:
        return g, a, b, 0, -b / a, c, c
    return g, a, b, c, d, e, f


def parametric(g, a, b, c, d, e, f):
    """(a x + b)ᵍ + e from d on, and c x + f below."""
    return np.where(d <= SHADES, np.maximum(a * SHADES + b, 0) ** g + e, c * SHADES + f)
