"""Photo bytes -> pixels: the one decoder, for training, testing, the command line and the endpoint.

Photos come from many kinds of cameras and, at the endpoint, from strangers. Whatever the bytes are, `decode`
either returns the whole photo or raises PhotoError with one sentence to show. It allocates no memory for
pixels before it has checked how many there are.

Next: findings.py
"""

import os
import re
import stat
import struct
import warnings
import zlib
from collections import Counter
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

# Pillow warns about harmless oddities, in EXIF or animations. Everything that matters is a PhotoError.
warnings.filterwarnings("ignore", module=r"PIL\.")

ORIENTATION = 0x0112        # the EXIF tag for how the camera was held, 1 to 8
TURN = {                    # the transposition that makes a photo upright (1 already is)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,         # Pillow counts anticlockwise: a quarter turn clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Each part of a file takes time and memory, however few pixels it has. Real photos have a few dozen segments,
# about 10 scans, or chunks of 8 KB.
MOST_SEGMENTS = 1000
MOST_SCANS = 20
LEAST_CHUNK = 200           # bytes, on average
PACKED = b"iCCP", b"iTXt", b"zTXt"          # compressed chunks: each can expand to a megabyte
MOST_PACKED = 50
# The marker of a JPEG segment. Other bytes are image data, padding, or skipped by libjpeg.
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
LONE_MARKERS = {0xc8, 0xd8, 0xd9, *range(0xf0, 0xfe)}       # no length follows these
START_OF_SCAN = 0xda
END = 0xd9


class PhotoError(ValueError):
    """The bytes are not a photo that we can use. One sentence says why, without a path."""


class PhotoTooLarge(PhotoError):
    """The photo has more bytes or pixels than the limits allow."""


class Limits(NamedTuple):
    """The photos that `decode` accepts. JPEG includes MPO, which many phones write and call JPEG."""

    formats: tuple[str, ...]
    max_bytes: int
    max_pixels: int


# For the user's own photos. Phones take up to 50 million pixels. Decoding needs up to 4 bytes per pixel, on
# each core, or 8 for RGBA, 16-bit grey and progressive CMYK. Most JPEGs need next to nothing.
LOCAL = Limits(("JPEG", "PNG", "WebP"), max_bytes=100_000_000, max_pixels=64_000_000)
# For photos from the network. Lambda takes requests of 6 MB, which hold 4.4 MB of photo in base64. A phone's
# "12 megapixels" are up to 12.53 million pixels, which need up to 100 MB to decode.
REMOTE = Limits(("JPEG", "PNG"), max_bytes=4_400_000, max_pixels=12_600_000)


def read(path: str | os.PathLike, limits: Limits = LOCAL) -> bytes:
    """Reads a photo's file.

    Raises PhotoError if it cannot be read or is not a regular file (a pipe could block forever), and
    PhotoTooLarge, before reading, if it is over the limit.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError("not a regular file")
        check_bytes(status.st_size, limits)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise PhotoError(f"cannot be read: {error.strerror}") from error


def decode(data: bytes, size: int, limits: Limits = LOCAL) -> np.ndarray:
    """Photo bytes -> pixels, (size, size, 3) uint8, RGB.

    Stretches the whole photo to the square. A scene is its whole layout, and a crop would cut off the sky or
    the shore. Training uses random crops of many shapes, so the network copes with some stretching.

    - EXIF orientation is applied. If EXIF is broken, the photo stays as it is.
    - Grey, black and white, palette: their RGB colours. CMYK, YCCK: Pillow's formula, no colour profiles.
    - Transparency: over white, except one transparent colour of 16-bit RGB, which Pillow does not report.
    - 16 bits a channel: the high byte. Animations and MPO: the first picture.

    Raises PhotoError if the bytes are not one whole photo, PhotoTooLarge if it is over the limits.
    """
    check_bytes(len(data), limits)
    name = find_format(data, limits.formats)
    check_parts(data, name)
    file = BytesIO(data)
    start = 0
    try:
        image = open_image(file, name)
        start = file.tell()
        if image.width * image.height > limits.max_pixels:
            most = f"at most {limits.max_pixels / 1e6:g} million are accepted"
            raise PhotoTooLarge(f"{image.width}x{image.height} pixels; {most}: shrink it first")
        check_whole(data, name, start)
        turn = find_turn(image)         # before `stretch`, which closes the image
        square = stretch(image, size)
        return np.array(square if turn is None else square.transpose(turn))
    except (PhotoError, MemoryError):
        raise
    except Exception as error:      # Pillow raises a dozen types
        check_whole(data, name, start)
        raise PhotoError(f"damaged: the {name} cannot be decoded") from error


def check_bytes(count: int, limits: Limits) -> None:
    """Raises PhotoTooLarge if a photo of this many bytes is over the limit."""
    if count > limits.max_bytes:
        most = f"at most {limits.max_bytes / 1e6:g} MB are accepted"
        raise PhotoTooLarge(f"{count / 1e6:.1f} MB; {most}: shrink it first")


def find_format(data: bytes, accepted: tuple[str, ...]) -> str:
    """JPEG, PNG or WebP, by the first bytes, since a file's name can be wrong.

    Raises PhotoError if the format is not among those accepted.
    """
    if not data:
        raise PhotoError("the file is empty")
    name = None
    other = ""
    if data.startswith(b"\xff\xd8\xff"):
        name = "JPEG"
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        name = "PNG"
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        name = "WebP"
    elif data.lstrip().startswith(b"<"):
        other = " but a web page"
    elif data[4:8] == b"ftyp":
        other = " but HEIC, AVIF or a video: export it as JPEG"
    if name not in accepted:
        raise PhotoError(f"not a {', '.join(accepted[:-1])} or {accepted[-1]} photo{other}")
    return name


class Jpeg(JpegImageFile):
    """Pillow's JPEG, but tolerant of broken EXIF."""

    def _read_dpi_from_exif(self):
        """Does nothing. Pillow would read the resolution, and fail on a good photo whose EXIF is broken."""


def open_image(file: BinaryIO, name: str) -> Image.Image:
    """Opens a picture and reads only its header.

    Uses the format's class, not `Image.open`, so that no other decoder of Pillow can be reached.
    """
    if name == "WebP":
        from PIL.WebPImagePlugin import WebPImageFile  # here, not above: the endpoint never needs it

        return WebPImageFile(file)
    return {"JPEG": Jpeg, "PNG": PngImageFile}[name](file)


def check_whole(data, name, start):
    """Raises PhotoError if the file's end is missing or a checksum is wrong. The picture starts at `start`.

    Decoders are too lenient: a half-copied JPEG, padded with zeros, decodes to a photo that is half grey.
    """
    if name == "JPEG":
        whole = data.find(b"\xff\xd9", start) >= 0       # the end marker, which image data cannot contain
    elif name == "WebP":
        whole = 8 + int.from_bytes(data[4:8], "little") <= len(data)
    else:
        whole = has_all_chunks(data)
    if not whole:
        raise PhotoError(f"truncated: the end of the {name} is missing")


def has_all_chunks(data):
    """Whether a PNG is complete up to its last chunk. Raises PhotoError if a checksum is wrong."""
    last = b""
    for start, end in chunks(data):
        if zlib.crc32(memoryview(data)[start:end]) != int.from_bytes(data[end:end + 4], "big"):
            raise PhotoError("damaged: a checksum in the PNG is wrong")
        last = data[start:start + 4]
    return last == b"IEND"


def chunks(data):
    """Yields (start, end) of the kind and content of each complete chunk of a PNG.

    A chunk is its content's length (4 bytes), kind (4), content, and the CRC-32 of kind and content (4).
    """
    start = 8
    kind = b""
    while kind != b"IEND" and start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        yield start + 4, end
        start = end + 4


def check_parts(data, name):
    """Raises PhotoError if a JPEG or PNG has more parts than any real photo.

    Pillow reads them all, which takes seconds for a million segments, and an hour for a million scans.
    """
    if name == "PNG" and has_too_many_chunks(data) or name == "JPEG" and has_too_many_segments(data):
        raise PhotoError(f"damaged: the {name} has too many parts")


def has_too_many_chunks(data):
    """Whether a PNG has too many chunks, or too many compressed ones."""
    kinds = Counter(data[start:start + 4] for start, _ in chunks(data))
    return (kinds.total() > max(1000, len(data) / LEAST_CHUNK)
            or sum(kinds[kind] for kind in PACKED) > MOST_PACKED)


def has_too_many_segments(data):
    """Whether a JPEG has too many segments, or too many scans, which each cover the whole picture once.

    A segment is FF, its kind (1 byte), the length of the rest (2 bytes, included), and its content. The
    search must see every scan that libjpeg sees, so it skips the same bytes as libjpeg.
    """
    at = 2
    segments = 0
    scans = 0
    while segments <= MOST_SEGMENTS and scans <= MOST_SCANS:
        found = MARKER.search(data, at)
        if not scans:                   # before the first scan, stray bytes take time, too
            segments += ((found.start() if found else len(data)) - at) // 100
        if not found or scans and found[0][1] == END:
            return segments > MOST_SEGMENTS
        segments += 1
        at = found.end()
        if found[0][1] not in LONE_MARKERS:
            scans += found[0][1] == START_OF_SCAN
            at += max(2, int.from_bytes(data[at:at + 2], "big"))
    return True


def stretch(image, size):
    """Decodes an image, converts it to RGB and resizes it to size x size.

    libjpeg shrinks by 2, 4 or 8 while it decodes, which is fast, but never below the square. Pillow does the
    rest, with a bicubic kernel that widens as the picture shrinks, which avoids moiré.
    """
    drafted = image.draft(None, (size, size))       # None if not a JPEG
    box = drafted and drafted[1]        # 203 pixels / 8 = 25.375: the last of libjpeg's 26 is partly padding
    if image.mode.startswith("I"):
        image = reduce_to_8_bits(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode != mode:
        converted = image.convert(mode)
        image.close()       # frees its pixels, which can take as much memory as all the rest
        image = converted
    image = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def reduce_to_8_bits(image):
    """16-bit grey -> 8-bit grey, with alpha if one of the 16-bit shades is transparent. Closes the image."""
    grey = np.asarray(image)
    shade = image.info.get("transparency")
    image.close()
    image = Image.fromarray((grey >> 8).astype(np.uint8))
    if shade is not None:
        image.putalpha(Image.fromarray(np.uint8(255) * (grey != shade)))
    return image


def find_turn(image):
    """The transposition that EXIF asks for, or None. Turning the square is cheaper than turning the photo."""
    try:
        return TURN.get(image.getexif().get(ORIENTATION))
    except Exception:       # EXIF is broken, but the pixels may be fine
        return None
