"""scene/photos/png.py: pictures of 16 bits a sample keep what can be seen. test_decode.py has the rest."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from scene.photos.decode import decode
from scene.photos.png import add_low_bytes, has_too_many_chunks, used_bits

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
BANDS = {GREY: 1, RGB: 3, GREY_ALPHA: 2, RGBA: 4}


def png(samples, color, sbit=None, interlaced=False, shade=None):
    """A PNG of samples (H, W, bands) of 16 bits."""
    height, width, _ = samples.shape
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, interlaced))]
    if sbit:
        parts.append((b"sBIT", bytes([sbit] * (BANDS[color] - 1 | 1) + [16])[:BANDS[color]]))
    if shade is not None:
        parts.append((b"tRNS", struct.pack(">H", shade)))
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                  (0, 1, 1, 2)]
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes
                    for row in samples[y::dy, x::dx].astype(">u2") if row.size)
    return file_of(*parts, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def file_of(*parts):
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts)


def ramp(bits, color, largest=1.0):
    """Samples from 0 to `largest` of the highest number of these bits, from left to right, opaque."""
    shades = np.linspace(0, largest * ((1 << bits) - 1), 256).round().astype(np.uint16)
    samples = np.repeat(shades, BANDS[color]).reshape(1, 256, -1).repeat(256, 0)
    if color in (GREY_ALPHA, RGBA):
        samples[..., -1] = 65535
    return samples


@pytest.mark.parametrize("color", BANDS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_few_bits_become_the_whole_range(bits, color, interlaced):
    pixels = decode(png(ramp(bits, color), color, interlaced=interlaced), 256)
    assert abs(pixels.astype(int) - np.arange(256)[None, :, None]).max() <= 1


@pytest.mark.parametrize("color", BANDS)
@pytest.mark.parametrize("bits, sbit, largest, brightest", [
    (16, None, 0.9, 230), (16, None, 0.3, 76),      # a dark photo
    (16, None, 0.12, 30),                           # a very dark one: 13 bits, which no camera has
    (12, None, 0.6, 153), (10, None, 0.6, 153), (9, None, 1, 127), (11, None, 1, 127),
    (12, 12, 0.1, 25), (10, 10, 0.05, 12),          # dark photos that say how many bits they use
    (16, 12, 0.5, 127), (16, 10, 0.02, 5),          # scaled up to 16 bits, as PNG wants it
    (16, 16, 0.05, 12), (12, 16, 1, 15),
    (8, 5, 0.1, 25),                                # nothing is enlarged beyond what was there
])
def test_how_many_bits_are_used(color, bits, sbit, largest, brightest):
    pixels = decode(png(ramp(bits, color, largest), color, sbit), 256)
    assert abs(int(pixels.max()) - brightest) <= 1


@pytest.mark.parametrize("color", [GREY_ALPHA, RGBA])
def test_alpha_is_no_shade(color):
    """It uses all bits, whatever the colours use, and stays as it is."""
    samples = ramp(12, color)
    samples[:128, :, -1] = 0
    pixels = decode(png(samples, color), 256)
    assert pixels[:120].min() == 255 and pixels[136:, 128].max() <= 130


def test_a_transparent_shade_does_not_count():
    samples = ramp(12, GREY)
    samples[:64] = 65535
    pixels = decode(png(samples, GREY, shade=65535), 256)
    assert pixels[:60].min() == 255 and abs(int(pixels[200, 128, 0]) - 128) <= 1


def test_pictures_that_differ_in_their_low_bits_differ():
    """In 1.4 both were black, and so the same photo."""
    chance = np.random.default_rng(0)
    one, two = (chance.integers(256, size=(64, 64, 3)).astype(np.uint16) for _ in range(2))
    assert not np.array_equal(decode(png(one, RGB), 32), decode(png(two, RGB), 32))
    assert decode(png(one, RGB), 32).std() > 20


def test_strips_of_a_tall_picture():
    samples = np.repeat(np.arange(1000, dtype=np.uint16), 30).reshape(1000, 10, 3)
    pixels = decode(png(samples, RGB), 100)
    assert abs(pixels[:, 5, 0].astype(int) - np.linspace(0, 249, 100)).max() <= 2


@pytest.mark.parametrize("parts, too_many", [
    ([(b"tEXt", b"")] * 999 + [(b"IEND", b"")], False),             # a thousand
    ([(b"tEXt", b"")] * 1000 + [(b"IEND", b"")], True),
    ([(b"IDAT", bytes(189))] * 1001 + [(b"IEND", b"")], False),     # more, of over 200 bytes on average
    ([(b"IDAT", bytes(187))] * 1001 + [(b"IEND", b"")], True),
    ([(b"iCCP", b"")] + [(b"zTXt", b"")] * 40 + [(b"iTXt", b"")] * 9, False),
    ([(b"iCCP", b"")] + [(b"zTXt", b"")] * 40 + [(b"iTXt", b"")] * 10, True),
    ([(b"IEND", b"")] + [(b"tEXt", b"")] * 2000, False),            # nobody reads on
])
def test_how_many_chunks_a_photo_may_have(parts, too_many):
    assert has_too_many_chunks(file_of(*parts)) == too_many


@pytest.mark.parametrize("most, significant, bits", [
    (255, 0, 8), (256, 0, 10), (1023, 0, 10), (1024, 0, 12), (4095, 0, 12), (4096, 0, 16), (8191, 0, 16),
    (8192, 0, 14), (16383, 0, 14), (16384, 0, 16), (65535, 0, 16), (0, 0, 8),
    (1023, 10, 10), (1024, 10, 16), (3, 12, 12), (65535, 16, 16),
])
def test_the_bits_of_the_largest_sample(most, significant, bits):
    assert used_bits(most, significant) == bits


def test_8_bits_are_left_alone():
    for image in Image.new("RGB", (9, 9), (1, 2, 3)), Image.new("L", (9, 9), 3):
        file = io.BytesIO()
        image.save(file, "PNG")
        assert decode(file.getvalue(), 4).max() == 3


@pytest.mark.parametrize("size", [(3000, 1000), (60_000, 50)], ids=["usual", "wide"])
def test_the_low_bytes_are_added_in_strips_however_wide_the_picture(size):
    pictures = [Image.new("RGB", size, 3) for _ in range(2)]
    tracemalloc.start()
    try:
        add_low_bytes(*pictures, significant=16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * size[0] * size[1], "less than the samples of the whole picture, of 16 bits, would take"
