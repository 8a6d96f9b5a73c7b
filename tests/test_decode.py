"""scene/photos/decode.py: every kind of photo gives the right pixels, everything else one clear sentence."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from scene.photos.decode import (
    GAP,
    LOCAL,
    ORIENTATION,
    REMOTE,
    Limits,
    PhotoError,
    PhotoTooLarge,
    decode,
    read,
    shrink_transparent,
)

KINDS = ["JPEG", "PNG", "WebP"]


def scenery(width=80, height=60, mode="RGB"):
    """A picture without symmetry: a darkening sky, a sun on the left, a meadow with a path on the right."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    sky = np.stack([90 + 100 * y, 130 + 90 * y, 250 - 40 * y], -1)
    meadow = np.stack([60 + 60 * x, 150 - 60 * y, 40 + 0 * x], -1)
    picture = np.where((y < 0.55)[..., None], sky, meadow)
    picture[(x - 0.2) ** 2 + (y - 0.2) ** 2 < 0.012] = 255, 240, 120
    picture[(y > 0.55) & (abs(x - 0.7) < 0.08)] = 200, 180, 150
    return Image.fromarray(picture.astype(np.uint8)).convert(mode)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(color, mode="RGB", size=(8, 8)):
    return Image.new(mode, size, color)


def message(data, **options):
    with pytest.raises(PhotoError) as caught:
        decode(data, 16, **options)
    return str(caught.value)


def png(*chunks):
    """A PNG of (kind, content) chunks, with correct lengths and checksums."""
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ihdr(width, height, depth=8, color=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


JPEG = encode(scenery(), "JPEG", quality=90)
PNG = encode(scenery(), "PNG")
WEBP = encode(scenery(), "WebP")
PROGRESSIVE = encode(scenery(), "JPEG", progressive=True)
MAKERS = {"JPEG": JPEG, "PNG": PNG, "WebP": WEBP, "progressive": PROGRESSIVE}


# Pixels


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_photo_is_stretched_to_the_square(kind):
    pixels = decode(encode(scenery(), kind, quality=95), 32)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    reference = np.asarray(scenery().resize((32, 32), Image.Resampling.BOX))
    assert abs(pixels.astype(int) - reference).mean() < 3
    for y, x in [(0, 0), (0, 31), (31, 0), (31, 31)]:       # nothing is cropped
        assert abs(pixels[y, x].astype(int) - reference[y, x]).max() < 20


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_ours_to_write_and_the_same_every_time(kind):
    data = encode(scenery(), kind)
    first = decode(data, 24)
    second = decode(data, 24)
    assert np.array_equal(first, second)
    first += 1
    assert np.array_equal(decode(data, 24), second)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 300), st.integers(1, 300), st.integers(1, 130))
@example("JPEG", 30000, 10, 64)
@example("JPEG", 1, 1, 64)
@example("PNG", 1, 30000, 32)
def test_any_shape_of_photo_and_square(kind, width, height, size):
    pixels = decode(encode(plain((200, 100, 50), size=(width, height)), kind), size)
    assert pixels.shape == (size, size, 3)
    assert abs(pixels.astype(int) - (200, 100, 50)).max() <= 6


@pytest.mark.parametrize("times", [2, 3, 4, 7, 8, 12])
def test_shrinking_while_decoding_changes_little(times):
    """Compares libjpeg's own shrinking with a full decode and Pillow's best filter."""
    data = encode(scenery(64 * times, 48 * times), "JPEG", quality=95)
    reference = Image.open(io.BytesIO(data)).resize((48, 48), Image.Resampling.LANCZOS)
    assert abs(decode(data, 48) - np.asarray(reference).astype(int)).mean() < 2


def test_a_fine_pattern_becomes_its_mean_not_a_coarse_one():
    pattern = np.zeros((203, 203), np.uint8)
    pattern[::2, 1::2] = pattern[1::2, ::2] = 255
    for kind in KINDS:
        pixels = decode(encode(Image.fromarray(pattern), kind, quality=95), 20)
        assert abs(pixels.astype(int) - 127).max() < 14, kind


MODES = [
    ("PNG", plain(90, "L"), (90, 90, 90)),
    ("JPEG", plain(90, "L"), (90, 90, 90)),
    ("PNG", plain(1, "1"), (255, 255, 255)),
    ("PNG", plain(0, "1"), (0, 0, 0)),
    ("PNG", plain(200 * 256 + 255, "I;16"), (200, 200, 200)),
    ("PNG", plain((90, 51), "LA"), (222, 222, 222)),        # 1/5 of 90, 4/5 of white
    ("PNG", plain((255, 0, 100, 102), "RGBA"), (255, 153, 193)),
    ("WebP", plain((255, 0, 100, 0), "RGBA"), (255, 255, 255)),
    ("PNG", plain((10, 20, 30)).quantize(4), (10, 20, 30)),
    ("JPEG", plain((0, 255, 255, 0), "CMYK"), (255, 0, 0)),
    ("JPEG", plain((0, 0, 0, 155), "CMYK"), (100, 100, 100)),
    ("JPEG", plain((120, 128, 128), "YCbCr"), (120, 120, 120)),
]


@pytest.mark.parametrize("kind, image, color", MODES, ids=[f"{case[0]} {case[1].mode}" for case in MODES])
def test_every_mode_becomes_rgb(kind, image, color):
    options = {"lossless": True} if kind == "WebP" else {}
    pixels = decode(encode(image, kind, **options), 6)
    assert abs(pixels.astype(int) - color).max() <= 2, pixels[0, 0]


def test_16_bit_grey_keeps_its_shades():
    ramp = np.arange(256, dtype=np.uint16).repeat(2).reshape(1, 512).repeat(512, 0) * 257
    pixels = decode(encode(Image.fromarray(ramp), "PNG"), 256)
    assert abs(pixels[128, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_16_bit_color_takes_the_high_byte():        # tests/test_png.py has pictures of fewer bits
    rows = zlib.compress((b"\x00" + bytes([10, 255, 20, 255, 30, 255]) * 4) * 4)
    pixels = decode(png(ihdr(4, 4, depth=16), (b"IDAT", rows), (b"IEND", b"")), 4)
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [[10, 20, 30]])


def test_ycck_is_read_as_cmyk_is():
    """Pillow cannot write YCCK, so this changes Adobe's marker in a CMYK photo, and thereby its colours."""
    cmyk = encode(plain((0, 0, 0, 155), "CMYK"), "JPEG")
    at = cmyk.index(b"Adobe") + 11
    ycck = cmyk[:at] + b"\x02" + cmyk[at + 1 :]
    assert cmyk[at] == 0 and decode(ycck, 8).shape == (8, 8, 3)
    expected = np.asarray(Image.open(io.BytesIO(ycck)).convert("RGB"))
    assert np.array_equal(decode(ycck, 8), expected)


def test_transparent_palette_is_laid_over_white():
    image = plain(0, "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 4, 8))
    for transparency in (1, b"\xff\x00"):                   # one transparent colour, or an alpha for each
        pixels = decode(encode(image, "PNG", transparency=transparency), 8)
        assert tuple(pixels[4, 0]) == (255, 255, 255) and tuple(pixels[4, 7]) == (255, 0, 0)


@pytest.mark.parametrize("mode, color", [("RGB", (9, 8, 7)), ("L", 9), ("1", 1)])
def test_a_color_declared_transparent_is_white(mode, color):
    data = encode(plain(color, mode), "PNG", transparency=color)
    assert decode(data, 4).min() == 255


def test_a_16_bit_shade_declared_transparent_is_white():
    """Only this shade, not the others with the same high byte."""
    rows = zlib.compress((b"\x00" + bytes([90, 7]) * 2 + bytes([90, 8]) * 2) * 4)
    data = png(ihdr(4, 4, depth=16, color=0), (b"tRNS", bytes([90, 7])), (b"IDAT", rows), (b"IEND", b""))
    pixels = decode(data, 4)
    assert (pixels[:, 0] == 255).all() and (pixels[:, 3] == 90).all()


@pytest.mark.parametrize("shade, background", [(255, 0), (250, 0), (0, 255), (128, 255), (200, 255)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_on_transparency_is_seen_on_black(shade, background, mode):
    image = Image.new(mode, (64, 64), (255, 255, 255, 0) if mode == "RGBA" else (255, 0))
    image.paste((shade, shade, shade, 255) if mode == "RGBA" else (shade, 255), (16, 16, 48, 48))
    pixels = decode(encode(image, "PNG"), 32)
    assert pixels[0, 0, 0] == background and abs(int(pixels[16, 16, 0]) - shade) <= 1


def test_what_nothing_can_be_seen_of_is_white():
    assert decode(encode(Image.new("RGBA", (9, 9), (255, 255, 255, 0)), "PNG"), 8).min() == 255
    assert decode(encode(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG"), 8).min() == 255
    assert decode(encode(Image.new("RGBA", (9, 9), "white"), "PNG"), 8).min() == 255


def test_hidden_colors_under_transparency_do_not_bleed():
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 32, 64))
    pixels = decode(encode(image, "PNG"), 9).astype(int)
    assert abs(pixels[..., 0] - pixels[..., 1]).max() <= 1  # grey at the edge, never red


@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from([16, 80]), st.integers(0, 9))
@settings(max_examples=50)
def test_a_transparent_picture_is_shrunk_in_strips_to_what_pillow_makes_of_it(width, height, size, seed):
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 4)).astype(np.uint8)
    image = Image.fromarray(pixels)
    expected = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=GAP)
    np.testing.assert_array_equal(np.array(shrink_transparent(image, size)), np.array(expected))


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows count memory differently")
def test_a_transparent_picture_takes_little_more_memory_than_its_pixels(tmp_path):
    (tmp_path / "large.png").write_bytes(encode(Image.new("RGBA", (4000, 3000), (9, 9, 9, 9)), "PNG"))
    (tmp_path / "small.png").write_bytes(encode(Image.new("RGBA", (400, 300), (9, 9, 9, 9)), "PNG"))
    code = """
import resource, sys
from scene.photos.decode import decode, read
def peak(path):
    decode(read(path), 80)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(-peak("small.png") + peak("large.png"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert int(done.stdout) < 5 * 4000 * 3000, "bytes; Pillow's own resize would take 8 for a pixel"


def test_first_picture_of_animations_and_mpo():
    red, blue = plain((250, 0, 0), size=(40, 30)), plain((0, 0, 250), size=(40, 30))
    for kind in ("PNG", "WebP", "MPO"):
        data = encode(red, kind, save_all=True, append_images=[blue])
        assert abs(decode(data, 8).astype(int) - (250, 0, 0)).max() <= 6, kind
    assert Image.open(io.BytesIO(data)).format == "MPO" and data.count(b"\xff\xd9") == 2


def test_phones_write_more_behind_the_picture():
    assert np.array_equal(decode(JPEG + b"a film \xff\xda of random bytes", 16), decode(JPEG, 16))
    assert np.array_equal(decode(PNG + b"whatever", 16), decode(PNG, 16))


# Orientation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(scenery(), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = np.asarray(upright.resize((30, 30), Image.Resampling.BICUBIC, reducing_gap=2.0)).astype(int)
    difference = abs(decode(data, 30) - expected)
    assert difference.mean() < 2
    unturned = decode(encode(scenery(), kind), 30).astype(int)
    assert orientation == 1 or abs(decode(data, 30) - unturned).mean() > 10


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(scenery(), "JPEG", exif=exif)
    assert np.array_equal(decode(data, 16), decode(encode(scenery(), "JPEG"), 16))


EXIF = Image.Exif()
EXIF.update({ORIENTATION: 6, 0x010F: "a maker", 0x011A: 72.0, 0x011B: 72.0, 0x0128: 2})
EXIF = EXIF.tobytes()


@pytest.mark.filterwarnings("ignore")   # pytest undoes our filter of warnings, which a test below checks
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS),
       st.lists(st.tuples(st.integers(0, len(EXIF) - 7), st.integers(0, 255)), max_size=4),
       st.integers(0, len(EXIF)))
@example("JPEG", [(EXIF.index(b"\x01\x1a") + 3 - 6, 2)], len(EXIF))    # Pillow fails on a resolution of text
@example("JPEG", [(0, 0)], len(EXIF))
def test_broken_exif_never_costs_the_photo(kind, changes, length):
    exif = bytearray(EXIF)
    for place, value in changes:
        exif[6 + place] = value
    image = plain((200, 100, 50))
    pixels = decode(encode(image, kind, exif=bytes(exif[: max(length, 8)])), 8)
    assert abs(pixels.astype(int) - (200, 100, 50)).max() <= 6


# What is refused


def test_what_is_no_photo():
    assert message(b"") == "the file is empty"
    assert message(b"hello") == "not a JPEG, PNG or WebP photo"
    assert message(bytes(1000)) == "not a JPEG, PNG or WebP photo"
    assert message(b"\n <!DOCTYPE html><html>") == "not a JPEG, PNG or WebP photo but a web page"
    heic = "not a JPEG, PNG or WebP photo but HEIC, AVIF or a video: export it as JPEG"
    assert message(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == heic
    assert message(WEBP, limits=REMOTE) == "not a JPEG or PNG photo: export it as JPEG"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    advice = "run git lfs pull to get the photo itself"
    assert message(pointer) == f"not a JPEG, PNG or WebP photo but a Git LFS pointer: {advice}"


@pytest.mark.parametrize("kind", [
    "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "DDS", "JPEG2000", "SGI", "EPS"])
def test_no_other_decoder_is_reachable(kind):
    image = scenery(32, 32)
    data = encode(image, kind)
    assert Image.open(io.BytesIO(data)).format        # Pillow could open it
    assert message(data).startswith("not a JPEG, PNG or WebP photo")


EXPORTED = [("GIF", "GIF"), ("BMP", "BMP"), ("TIFF", "TIFF"), ("JPEG2000", "JPEG 2000")]


@pytest.mark.parametrize("kind, name", EXPORTED)
def test_formats_that_photos_can_be_exported_from_are_named(kind, name):
    for image in scenery(32, 32), scenery(400, 300), plain(0, "L", (1, 1)):
        assert message(encode(image, kind)) == f"not a JPEG, PNG or WebP photo but {name}: export it as JPEG"


def test_formats_that_pillow_cannot_write_are_named():
    for start in b"MM\0*", b"II+\0", b"MM\0+":
        assert message(start + bytes(40)).endswith(" but TIFF: export it as JPEG")
    for start in b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n":
        assert message(start + bytes(40)).endswith(" but JPEG XL: export it as JPEG")


def test_limits_are_checked_before_any_pixel_is_decoded(monkeypatch):
    monkeypatch.setattr("scene.photos.decode.stretch", lambda *_: pytest.fail("decoded"))
    limits = Limits(LOCAL.formats, max_bytes=10**6, max_pixels=4000)
    too_many = "^80x60 pixels; at most 0.004 million are accepted: shrink it first$"
    for data in (PROGRESSIVE, PNG, WEBP):       # tests/test_jpeg.py has other JPEGs
        with pytest.raises(PhotoTooLarge, match=too_many):
            decode(data, 16, limits)
    bomb = png(ihdr(12000, 9000), (b"IDAT", b""), (b"IEND", b""))
    for limits, most in (LOCAL, "64"), (REMOTE, "12.6"):
        expected = f"12000x9000 pixels; at most {most} million are accepted: shrink it first"
        assert message(bomb, limits=limits) == expected
    huge = png(ihdr(2**31 - 1, 2**31 - 1), (b"IDAT", b""), (b"IEND", b""))
    assert "2147483647x2147483647 pixels" in message(huge)
    monkeypatch.setattr("scene.photos.decode.open_image", lambda *_: pytest.fail("opened"))
    expected = "6.0 MB; at most 4.4 MB are accepted: shrink it first"
    assert message(JPEG + bytes(6_000_000), limits=REMOTE) == expected


def test_limits_are_inclusive():
    decode(PNG, 16, Limits(LOCAL.formats, max_bytes=len(PNG), max_pixels=80 * 60))
    with pytest.raises(PhotoTooLarge):
        decode(PNG, 16, Limits(LOCAL.formats, max_bytes=len(PNG) - 1, max_pixels=80 * 60))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), st.floats(0, 1, exclude_max=True))
@example("JPEG", 0.9999)
@example("PNG", 0.9999)
@example("WebP", 0.9999)
@example("progressive", 0.9999)
def test_truncated_anywhere(maker, share):
    whole = MAKERS[maker]
    data = whole[: int(share * len(whole))]
    assume(len(data) >= 12)
    kind = "JPEG" if maker == "progressive" else maker
    assert message(data) == f"truncated: the end of the {kind} is missing"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), st.floats(0.5, 0.99), st.sampled_from([b"\0", b"\xff"]))
def test_an_end_filled_up_by_a_broken_copy_is_not_a_grey_half(maker, share, filling):
    whole = MAKERS[maker]
    keep = int(share * len(whole))
    data = whole[:keep] + filling * (len(whole) - keep)
    if maker == "WebP":             # WebP has no checksum, so the decoder may not notice
        assert decode_or_error(data) is not None
    else:
        assert message(data).startswith(("truncated: ", "damaged: "))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photo():
    """Cameras store a small JPEG in EXIF, with an end marker of its own."""
    data = encode(scenery(), "JPEG", exif=b"Exif\0\0" + JPEG)
    assert decode(data, 16).shape == (16, 16, 3)
    half = data[:-300]
    for broken in (half, half + bytes(len(JPEG))):
        assert message(broken) == "truncated: the end of the JPEG is missing"


def test_header_only():
    assert message(JPEG[: JPEG.index(b"\xff\xda")]) == "truncated: the end of the JPEG is missing"
    assert message(b"\xff\xd8\xff\xd9") == "damaged: the JPEG cannot be decoded"
    assert message(png(ihdr(8, 8))) == "truncated: the end of the PNG is missing"
    assert message(png(ihdr(8, 8), (b"IEND", b""))) == "damaged: the PNG cannot be decoded"
    no_pixels = png(ihdr(0, 8), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    assert message(no_pixels) == "damaged: the PNG cannot be decoded"
    assert message(b"RIFF\4\0\0\0WEBP") == "damaged: the WebP cannot be decoded"


@settings(max_examples=100, deadline=None)
@given(st.integers(8, len(PNG) - 1), st.integers(1, 255))
def test_every_flipped_byte_of_a_png_is_noticed(place, flip):
    data = bytearray(PNG)
    data[place] ^= flip
    assert message(bytes(data)).startswith(("damaged: ", "truncated: "))


def test_flipped_pixel_of_a_png():
    data = bytearray(PNG)
    data[PNG.index(b"IDAT") + 40] ^= 1
    assert message(bytes(data)) == "damaged: a checksum in the PNG is wrong"


def test_broken_jpeg_table():
    at = JPEG.index(b"\xff\xc4") + 5
    assert message(JPEG[:at] + b"\xff" * 16 + JPEG[at + 16 :]) == "damaged: the JPEG cannot be decoded"


def decode_or_error(data):
    """Returns pixels or the message. Any other exception fails the test."""
    try:
        return decode(data, 16)
    except PhotoError as error:
        text = str(error)
        assert text and "\n" not in text and "/" not in text
        return text


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", JPEG[:3], PNG[:8], WEBP[:16], JPEG[:200], PNG[:60], WEBP[:40]]),
       st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_photo_errors(start, rest):
    assert isinstance(decode_or_error(start + rest), str) or start == JPEG[:200]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MAKERS)),
       st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8))
def test_mutated_photos_raise_nothing_but_photo_errors(maker, changes):
    data = bytearray(MAKERS[maker])
    for share, value in changes:
        data[int(share * len(data))] = value
    assert decode_or_error(bytes(data)) is not None


def test_no_memory_is_no_defect_of_the_photo(monkeypatch):
    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr("scene.photos.decode.stretch", out_of_memory)
    with pytest.raises(MemoryError):
        decode(JPEG, 16)


# Files


def test_read(tmp_path):
    good = tmp_path / "a.jpg"
    good.write_bytes(JPEG)
    (tmp_path / "link.jpg").symlink_to(good)
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read(good) == read(str(tmp_path / "link.jpg")) == JPEG
    for name, expected in [
        ("none.jpg", "cannot be read: No such file or directory"),
        ("loop.jpg", "cannot be read: Too many levels of symbolic links"),
        ("pipe.jpg", "not a regular file"),                 # does not block until somebody writes into it
        (".", "not a regular file"),
    ]:
        with pytest.raises(PhotoError) as caught:
            read(tmp_path / name)
        assert str(caught.value) == expected


def test_huge_file_is_refused_before_reading(tmp_path, monkeypatch):
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(LOCAL.max_bytes + 1)                  # sparse: takes no space on the disk
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("opened"))
    with pytest.raises(PhotoTooLarge, match="^100.0 MB; at most 100 MB are accepted: shrink it first$"):
        read(tmp_path / "huge.jpg")


def test_nothing_of_pillow_reaches_the_terminal():
    """Odd EXIF and an odd animation make Pillow warn, but a process with all warnings on prints nothing."""
    cut = encode(plain(0), "JPEG", exif=EXIF[:60])
    odd = png(ihdr(1, 1), (b"acTL", bytes(8)), (b"IDAT", zlib.compress(bytes(4))), (b"IEND", b""))
    program = """
import sys
from scene.photos.decode import decode
for data in sys.stdin.buffer.read().split(b"----"):
    decode(data, 8)
"""
    command = [sys.executable, "-W", "always", "-c", program]
    done = subprocess.run(command, input=cut + b"----" + odd, capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


def test_importing_decode_loads_no_other_decoder_and_no_torch():
    program = ("import sys, scene.photos.decode\n"
               "print(*[m for m in sys.modules if m.endswith('ImagePlugin') or m == 'torch'])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"PIL.JpegImagePlugin", "PIL.PngImagePlugin"}
