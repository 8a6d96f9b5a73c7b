"""scene/photos/jpeg.py: JPEGs whose data do not fill their picture are noticed, and no others."""

import base64
import io
import random
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scene.photos import jpeg
from scene.photos.decode import LOCAL, PhotoError, PhotoTooLarge, UnsupportedPhoto, decode

DAMAGED = "damaged: some of the JPEG's data are missing or wrong"
# 24x24 pixels in arithmetic coding, by jpegtran, since Pillow cannot write it.
ARITHMETIC = base64.b64decode("""
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYn
KSopGR8tMC0oMCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo
KCgoKCgoKCj/yQARCAAYABgDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AMdbp+/MjDzYxqEjvGbazPfArL3f
WJ07Jj7yc233C9fDMxqfmfMMZ3EB7Ic+skVilhTTVb0hkVLh1ZKwfyV73FoZfvt0Y6PkvdbSisMaCRMom9FBt77uG2Ex35rtRj1M
fvHgf8i5rQ+T4y1GWq0WsDaB0ILX+eUlICIOLB7lmx3N5h5yNSFwXAwfIam2ur3jlMh2VjVd3JkL/9k=
""")


def photograph(width=160, height=120, mode="RGB"):
    """A picture like a photo, with smooth parts, and noise that differs from place to place."""
    y, x = np.mgrid[0:height, 0:width] / 40
    chance = np.random.default_rng(0)
    noise = chance.normal(0, 1, (height, width, 3)) * (4 + 20 * (y > 1))[..., None]
    waves = 60 * np.sin(np.stack([x + y, 2 * x - y, 3 * y], -1))
    return Image.fromarray((128 + waves + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def encode(image=None, **options):
    file = io.BytesIO()
    (image or photograph()).save(file, "JPEG", **{"quality": 85} | options)
    return file.getvalue()


KINDS = {
    "baseline": encode(),
    "optimized": encode(optimize=True),
    "progressive": encode(progressive=True),
    "every color": encode(subsampling=0, quality=98),
    "grey": encode(photograph(mode="L")),
    "CMYK": encode(photograph(mode="CMYK")),
    "restart each row": encode(restart_marker_rows=1),
    "restart each 3 blocks": encode(restart_marker_blocks=3),
    "progressive, restart": encode(progressive=True, restart_marker_rows=2),
    "odd size": encode(photograph(157, 113)),
}


def scans(data):
    """(start, end) of the entropy data of each scan."""
    headers = [(start, end) for kind, start, end in jpeg.segments(data) if kind == jpeg.START_OF_SCAN]
    return [(end, re.search(rb"\xff[\xc0-\xcf\xd8-\xfe]", data[end:]).start() + end) for _, end in headers]


def message(data):
    """What `decode` says of a photo, or None if it takes it."""
    try:
        decode(data, 32)
    except PhotoError as error:
        return str(error)


def pillows(data):
    """The same pixels by Pillow's own reader."""
    image = Image.open(io.BytesIO(data))
    drafted = image.draft(None, (32, 32))
    resized = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC, drafted[1], reducing_gap=2.0)
    return np.asarray(resized)


# Whole photos


@pytest.mark.parametrize("kind", KINDS)
def test_whole_photos_are_what_pillow_reads(kind):
    assert np.array_equal(decode(KINDS[kind], 32), pillows(KINDS[kind]))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["RGB", "L", "CMYK"]), st.integers(0, 255), st.integers(1, 300), st.integers(1, 300),
       st.sampled_from(["optimize", "progressive", "restart_marker_blocks", "quality"]))
def test_a_plain_picture_has_long_runs_of_equal_bits_but_no_hole(mode, shade, width, height, option):
    color = shade if mode == "L" else (shade, 90, 9, 7)[:len(mode)]
    assert message(encode(Image.new(mode, (width, height), color), **{option: 1})) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [b"\0", b"\xff", b"\0\0\0", b"\xff" * 40, bytes(500)])
def test_padding_before_a_marker_is_no_damage(kind, padding):
    data = KINDS[kind]
    for _, end in reversed(scans(data)):
        data = data[:end] + padding + data[end:]
    assert np.array_equal(decode(data, 32), decode(KINDS[kind], 32))


def test_padding_before_restart_markers():
    data = re.sub(rb"\xff[\xd0-\xd7]", lambda found: b"\0\xff\xff" + found[0], KINDS["restart each 3 blocks"])
    assert np.array_equal(decode(data, 32), decode(KINDS["restart each 3 blocks"], 32))


def test_what_follows_the_end_is_not_looked_at():
    """A second picture, a gain map, a film, or bytes lost in it."""
    for more in KINDS["progressive"], KINDS["baseline"][:2000], bytes(999), b"\xff" * 99, b"\xff\xda\0\0":
        assert message(KINDS["baseline"] + more) is None


@pytest.mark.parametrize("size", [100, 65535 - 2])
def test_segments_of_any_length(size):
    """Their length, of 2 bytes, counts itself."""
    segment = b"\xff\xed" + struct.pack(">H", size + 2) + b"\xff\xd9" * (size // 2) + b"\0" * (size % 2)
    data = b"\xff\xd8" + 20 * segment + KINDS["baseline"][2:]
    assert np.array_equal(decode(data, 32), decode(KINDS["baseline"], 32))


def test_more_intervals_than_are_looked_at(monkeypatch):
    monkeypatch.setattr(jpeg, "MOST_INTERVALS", 2)
    data = KINDS["restart each 3 blocks"]
    assert np.array_equal(decode(data, 32), pillows(data))
    for number in 0, 2, 20:                                 # their order is still checked, and the last one
        place = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)][number]
        assert message(data[:place] + data[place + 2:]) == DAMAGED
    assert message(data[:-40] + data[-2:]) == DAMAGED


# Parts


@pytest.mark.parametrize("kind", range(0xc0, 0xff))
def test_where_a_segment_ends(kind):
    """Some markers stand alone: SOI and EOI, and those that are reserved. JPEG-LS's frame, F7, does not.

    Restart markers belong to the data of a scan, and libjpeg skips them elsewhere.
    """
    data = b"\xff\xd8" + bytes([0xff, kind, 0, 6, 0xff, 0xfe, 0, 2]) + b"\xff\xee\0\2"
    alone = kind in (0xc8, 0xd8, 0xd9) or 0xf0 <= kind <= 0xfd and kind != 0xf7
    inner, last = [(0xfe, 8, 10)], [(0xee, 12, 14)]
    expected = [(kind, 4, 4), *inner, *last] if alone else [(kind, 4, 10), *last]
    assert list(jpeg.segments(data)) == (inner + last if kind in range(0xd0, 0xd8) else expected)


@pytest.mark.parametrize("kind", range(0xc0, 0xff))
def test_which_segments_have_the_size_of_the_picture(kind):
    """SOF0 to SOF15, of which C4, C8 and CC are other things, and JPEG-LS's SOF55."""
    frame = bytes([0, 11, 12, 0, 9, 0, 9, 1])
    header = jpeg.read_header(b"\xff\xd8" + bytes([0xff, kind]) + frame + b"\1\x11\0" + b"\xff\xda\0\2")
    is_frame = kind in range(0xc0, 0xd0) and kind not in (0xc4, 0xc8, 0xcc) or kind == 0xf7
    assert (header.kind, header.bits) == ((kind, 12) if is_frame else (0, 0))


@pytest.mark.parametrize("stray", [99, 100, 250])
def test_stray_bytes_before_the_first_scan_count_as_parts(stray):
    """libjpeg skips them byte by byte, which takes time."""
    data = KINDS["baseline"]
    at = data.index(b"\xff\xdb")
    before = jpeg.read_header(data)
    assert (before.scans, before.kind, before.bits, before.in_rows) == (1, 0xc0, 8, True)
    assert before.segments == len(list(jpeg.segments(data[:scans(data)[0][0]])))
    assert jpeg.read_header(data[:at] + bytes(stray) + data[at:]).segments == before.segments + stray // 100
    assert jpeg.read_header(data[:-2] + bytes(stray) + data[-2:]) == before         # after it they do not


def test_a_picture_that_never_comes_is_all_stray_bytes():
    data = KINDS["baseline"]
    at = data.index(b"\xff\xdb")
    before = jpeg.read_header(data[:at])
    assert (before.scans, before.kind) == (0, 0)
    assert jpeg.read_header(data[:at] + bytes(1234)).segments == before.segments + 12
    assert jpeg.read_header(data[:at] + bytes(10 ** 6)).segments > jpeg.MOST_SEGMENTS


def test_a_scan_of_one_colour_does_not_come_in_rows():
    data = bytearray(KINDS["baseline"])
    at = data.index(b"\xff\xda")
    data[at + 4] = 1                                        # of three components
    assert not jpeg.read_header(bytes(data)).in_rows
    assert not jpeg.read_header(KINDS["progressive"]).in_rows
    assert jpeg.read_header(KINDS["grey"]).in_rows


@pytest.mark.parametrize("scan, side, units", [
    ((3, 1, 0, 2, 0, 3, 0), 8, 3 * 2),          # 16x16 pixels each: blocks of all three
    ((1, 1, 0), 8, 5 * 3),                      # the first alone: blocks of 8x8
    ((1, 2, 0), 8, 3 * 2),                      # half as fine
    ((3, 1, 0, 2, 0, 3, 0), 1, 17 * 9),         # lossless: samples
    ((1, 1, 0), 1, 33 * 17),
])
def test_units_of_a_scan(scan, side, units):
    """33x17 pixels, of which the first component has all, and the others a quarter."""
    frame = struct.pack(">BHHB", 8, 17, 33, 3) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
    assert jpeg.count_units(frame, bytes(scan), side) == units


def test_the_first_symbols_of_the_tables():
    def table(number, *symbols):
        return bytes([number, 0, len(symbols), *[0] * 14, *symbols])

    assert jpeg.find_zero_codes(table(0x01, 7, 8) + table(0x10, 1, 0) + table(0x13, 0xf0)) == {0: 1, 3: 0xf0}
    assert jpeg.find_zero_codes(b"") == {}


@pytest.mark.parametrize("scan, expected", [
    ((1, 9, 0x00, 0, 63, 0), True),
    ((1, 9, 0x11, 0, 63, 0), False),                        # its first symbol ends a block
    ((1, 9, 0x02, 0, 63, 0), False),                        # ... or is a run of zeros
    ((1, 9, 0x0f, 0, 63, 0), False),                        # a table that is not there
    ((2, 9, 0x11, 9, 0x00, 0, 63, 0), True),
    ((2, 0, 0x11, 0, 0x12, 0, 63, 0), False),               # the numbers of components are no tables
    ((1, 9, 0x00, 1, 5, 0), True), ((1, 9, 0x00, 1, 4, 0), False),          # few coefficients
    ((1, 9, 0x00, 1, 63, 0x0f), True), ((1, 9, 0x00, 1, 63, 0x10), False),  # a later bit of them
    ((1, 9, 0x00), False), ((2, 9, 0x00, 0, 63, 0), False), ((), False),    # cut off
])
def test_scans_that_hold_no_zeros(scan, expected):
    assert jpeg.has_no_zeros(bytes(scan), {0: 0x01, 1: 0x00, 2: 0xf0}) == expected


# Damaged photos


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filling", [b"\0", b"\xff"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.67, 0.95])
def test_a_hole_with_an_intact_end_is_noticed(kind, filling, share):
    data = KINDS[kind]
    start, _ = scans(data)[0]
    size = int(share * (len(data) - 2 - start))
    chance = random.Random(0)
    for _ in range(8):
        at = chance.randrange(start, len(data) - 2 - size)
        bad = data[:at] + filling * size + data[at + size:]
        if not message(bad):        # a scan of the last bits can be zeros, and libjpeg does not warn, either
            assert "progressive" in kind
            assert abs(decode(bad, 32).astype(int) - decode(data, 32)).mean() < 1, (at, size)


@pytest.mark.parametrize("kind", ["baseline", "optimized", "every color", "grey", "restart each row"])
@pytest.mark.parametrize("filling, least", [(b"\0", 24), (b"\xff", 2)])
def test_small_holes_of_zeros_or_ones_in_a_baseline_photo(kind, filling, least):
    data = KINDS[kind]
    start, end = scans(data)[0]
    for at in range(start, end - least - 100, 97):          # the last block may be too short to tell
        bad = data[:at] + filling * least + data[at + least:]
        assert message(bad) == DAMAGED, at


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [0.3, 0.7])
def test_data_that_end_early_or_late(kind, lost):
    """Bytes that are lost, or there twice, or from elsewhere: the pieces of a broken copy."""
    data = KINDS[kind]
    start, end = max(scans(data), key=lambda scan: scan[1] - scan[0])
    size = int(lost * (end - start))
    at = start + (end - start - size) // 2
    piece = data[at:at + size]
    for other in b"", 2 * piece, random.Random(0).randbytes(size):
        assert message(data[:at] + other + data[at + size:]), other[:8]


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey"])
def test_a_scan_that_lacks_its_last_bytes_or_has_more(kind):
    data = KINDS[kind]
    for start, end in scans(data):
        if end - start > 200:
            assert message(data[:end - 40] + data[end:]) == DAMAGED
            assert message(data[:end] + b"12345678abcdefgh" + data[end:]) == DAMAGED


def test_restart_markers_lost_doubled_or_swapped():
    data = KINDS["restart each row"]
    places = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    assert len(places) > 5
    first, second = places[1:3]
    row = data[first:second]
    assert message(data[:first] + data[second:]) == DAMAGED             # a row is missing
    assert message(data[:first] + row + data[first:]) == DAMAGED        # or there twice
    assert message(data[:first] + data[first + 2:]) == DAMAGED          # only its marker is missing
    nine = encode(photograph(160, 300), restart_marker_rows=1)          # eight rows, so the next number fits
    places = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", nine)]
    assert message(nine) is None
    assert message(nine[:places[1]] + nine[places[9]:]) == DAMAGED


def test_reserved_markers_in_the_data():
    for marker in b"\xff\x01", b"\xff\x3a", b"\xff\xbf":
        data = KINDS["baseline"]
        assert message(data[:-900] + marker + data[-898:]) == DAMAGED


# Kinds of JPEG


def test_arithmetic_coding():
    assert np.array_equal(decode(ARITHMETIC, 32), pillows(ARITHMETIC))
    comment = b"\xff\xfe" + struct.pack(">H", 60000) + bytes(59998)     # libjpeg needs the data in one piece
    assert message(ARITHMETIC[:2] + 2 * comment + ARITHMETIC[2:]) is None


def lossless(pixels):
    """A lossless JPEG of grey pixels (H, W): differences from the pixel on the left, or above it."""
    height, width = pixels.shape
    bits = ""
    for y, row in enumerate(pixels.astype(int)):
        for x, value in enumerate(row):
            before = row[x - 1] if x else pixels[y - 1, 0] if y else 128
            difference = int(value) - int(before)
            size = abs(difference).bit_length()
            if difference < 0:
                difference += (1 << size) - 1
            bits += f"{size:04b}" + (f"{difference:0{size}b}" if size else "")
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">HBHHBBBB", 11, 8, height, width, 1, 1, 0x11, 0)
    table = struct.pack(">HB16B9B", 28, 0, 0, 0, 0, 9, *[0] * 12, *range(9))
    return (b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + table
            + b"\xff\xda" + bytes([0, 8, 1, 1, 0, 1, 0, 0]) + data + b"\xff\xd9")


@pytest.mark.parametrize("side", [20, 63, 64, 159, 160])
def test_lossless_of_any_size(side):
    """libjpeg cannot shrink them while it decodes."""
    pixels = np.asarray(photograph(side, side, "L"))
    found = decode(lossless(pixels), 32)
    image = Image.fromarray(pixels).convert("RGB")
    expected = image.resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=2.0)
    assert np.array_equal(found, np.asarray(expected))


def test_a_hole_in_a_lossless_photo():
    data = lossless(np.asarray(photograph(100, 100, "L")))
    for filling in b"\0", b"\xff":
        assert message(data[:1000] + filling * 5000 + data[6000:]) == DAMAGED


@pytest.mark.parametrize("kind, bits, words", [
    (0xc1, 12, "a JPEG of 12 bits per sample, which is not supported: export it as a JPEG of 8 bits"),
    (0xc3, 16, "a JPEG of 16 bits per sample, which is not supported: export it as a JPEG of 8 bits"),
    (0xc5, 8, "a JPEG of a rare kind (SOF5), which is not supported: export it as an ordinary JPEG"),
    (0xcb, 8, "a JPEG of a rare kind (SOF11), which is not supported: export it as an ordinary JPEG"),
    (0xf7, 8, "a JPEG of a rare kind (SOF55), which is not supported: export it as an ordinary JPEG"),
])
def test_kinds_that_are_not_supported_are_named(kind, bits, words):
    data = bytearray(KINDS["baseline"])
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = kind, bits
    with pytest.raises(UnsupportedPhoto) as caught:
        decode(bytes(data), 32)
    assert str(caught.value) == words


def test_as_many_scans_as_time_allows():
    """Repeats the first scan, which changes nothing: libjpeg decodes it each time."""
    data = encode(photograph(64, 48), progressive=True)
    start, end = scans(data)[0]
    start = data.rindex(b"\xff\xda", 0, start)
    many = data[:start] + 23 * data[start:end] + data[start:]
    assert len(scans(many)) > 24 and np.array_equal(decode(many, 24), decode(data, 24))
    few = LOCAL._replace(max_pixels=64 * 48)
    assert decode(data, 24, few).shape
    with pytest.raises(PhotoTooLarge) as caught:
        decode(many, 24, few)
    count = len(scans(many))
    most = "at most 20 are accepted at this size: shrink it first"
    assert str(caught.value) == f"{count} scans of 64x48 pixels; {most}"


def test_pixels_in_rows_need_hardly_any_memory():
    """Sixteen times as many pixels as other photos may have, where libjpeg shrinks them as it decodes."""
    limits = LOCAL._replace(max_pixels=1200)                # a sixteenth
    for kind in "baseline", "grey", "restart each row":
        assert len(decode(KINDS[kind], 30, limits)) == 30
    for kind, side, fewer, most in [
        ("baseline", 30, 1199, 0.019184),                   # shrunk by 4
        ("baseline", 15, 1199, 0.019184),                   # shrunk by 8, but it is a question of time, too
        ("baseline", 31, 1200, 0.0048),                     # shrunk by 2
        ("baseline", 61, 1200, 0.0012),
        ("progressive", 30, 1200, 0.0012),                  # libjpeg keeps the coefficients of all pixels
    ]:
        words = f"^160x120 pixels; at most {most} million are accepted: shrink it first$"
        with pytest.raises(PhotoTooLarge, match=words):
            decode(KINDS[kind], side, LOCAL._replace(max_pixels=fewer))


def test_other_pixels_may_need_eight_bytes_each_and_a_little():
    """6 or 8 bytes for coefficients, and 4 for each pixel that libjpeg leaves when it shrinks the picture."""
    limits = LOCAL._replace(max_pixels=160 * 120)
    cmyk = encode(photograph(mode="CMYK").resize((160, 120)), progressive=True)
    for data, side, most in [
        (KINDS["progressive"], 60, None),                   # 7 bytes a pixel
        (KINDS["progressive"], 61, 0.01632),                # 10
        (cmyk, 30, None),                                   # 8.25
        (cmyk, 31, 0.018133),                                # 9
    ]:
        if most is None:
            assert len(decode(data, side, limits)) == side
            continue
        words = f"^160x120 pixels; at most {most} million are accepted: shrink it first$"
        with pytest.raises(PhotoTooLarge, match=words):
            decode(data, side, limits)
