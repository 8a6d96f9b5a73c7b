"""Photo bytes -> pixels: the one decoder, for training, testing, the command line and the endpoint.

Photos come from years of cameras and, at the endpoint, from strangers. So whatever the bytes are, `decode` either returns the
whole photo or raises PhotoError with one sentence to show, and it spends no memory on pixels before it knows how many there are.

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
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

# Pillow warns of what it can live with (odd EXIF, odd animations); what we cannot live with is a PhotoError.
warnings.filterwarnings("ignore", module=r"PIL\.")

ORIENTATION = 0x0112        # the EXIF tag that says how the camera was held, 1 to 8
TURN = {                    # what sets a photo upright again; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,         # Pillow counts anticlockwise: this is a quarter turn clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Parts of a file take time and memory however few its pixels. Photos have a few dozen segments, about 10 scans, chunks of 8 KB.
MOST_SEGMENTS, MOST_SCANS = 1000, 20
LEAST_CHUNK = 200           # bytes, in the mean
MOST_PACKED = 50            # of these chunks each can swell to a megabyte
PACKED = b"iCCP", b"iTXt", b"zTXt"
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")        # of a JPEG's segments: others are part of the picture, padding, or skipped
LONE_MARKERS = {0xc8, 0xd8, 0xd9, *range(0xf0, 0xfe)}       # behind these there is no length
START_OF_SCAN, END = 0xda, 0xd9


class PhotoError(ValueError):
    """One sentence, without a path: why these bytes are no photo that we can use."""


class PhotoTooLarge(PhotoError):
    """A photo over the limit of bytes or pixels."""


class Limits(NamedTuple):
    """What `decode` accepts. JPEG includes MPO, what many phones call a JPEG."""

    formats: tuple[str, ...]
    max_bytes: int
    max_pixels: int


# One's own photos. Phones take up to 50 million pixels. Decoding needs up to 4 bytes for each, 8 for RGBA, 16-bit grey and
# progressive CMYK, on every core; most JPEGs need next to nothing.
LOCAL = Limits(("JPEG", "PNG", "WebP"), max_bytes=100_000_000, max_pixels=64_000_000)
# Photos from the network. Lambda takes requests of 6 MB, in base64 4.4 MB of photo. The 12 megapixels of a phone are up to 12.53
# million pixels; decoding them needs up to 100 MB.
REMOTE = Limits(("JPEG", "PNG"), max_bytes=4_400_000, max_pixels=12_600_000)


def read(path, limits=LOCAL):
    """The bytes of the file at `path`.

    Raises PhotoError if it cannot be read or is no regular file (a pipe could keep us waiting for ever), and PhotoTooLarge,
    before reading, if it is over the limit.
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


def decode(data, size, limits=LOCAL):
    """Photo bytes -> pixels, (size, size, 3) uint8, RGB.

    The whole photo is stretched to the square. A scene is its whole layout, and a crop would cut off the sky or the shore;
    training sees random crops of many shapes, so the network is used to some stretching.

    - EXIF orientation is applied. Where EXIF is broken, the photo stays as it is.
    - Grey, black and white, palette: their RGB colours. CMYK, YCCK: Pillow's plain formula, without colour profiles.
    - Transparency: over white, except a single transparent colour of 16-bit RGB, which Pillow does not find.
    - 16 bits a channel: the high byte. Animations and MPO: the first picture.

    Raises PhotoError if the bytes are not one whole photo, PhotoTooLarge if it is over the limits.
    """
    check_bytes(len(data), limits)
    name = find_format(data, limits.formats)
    check_parts(data, name)
    file, start = BytesIO(data), 0
    try:
        image = open_image(file, name)
        start = file.tell()
        if image.width * image.height > limits.max_pixels:
            most = f"at most {limits.max_pixels / 1e6:g} million are accepted"
            raise PhotoTooLarge(f"{image.width}x{image.height} pixels; {most}: shrink it first")
        check_whole(data, name, start)
        turn = find_turn(image)         # first: `stretch` closes the image
        square = stretch(image, size)
        return np.array(square if turn is None else square.transpose(turn))
    except (PhotoError, MemoryError):
        raise
    except Exception as error:      # Pillow raises a dozen kinds
        check_whole(data, name, start)
        raise PhotoError(f"damaged: the {name} cannot be decoded") from error


def check_bytes(count, limits):
    """Raises PhotoTooLarge if so many bytes are over the limit."""
    if count > limits.max_bytes:
        most = f"at most {limits.max_bytes / 1e6:g} MB are accepted"
        raise PhotoTooLarge(f"{count / 1e6:.1f} MB; {most}: shrink it first")


def find_format(data, accepted):
    """JPEG, PNG or WebP, by the first bytes: the file's name may lie. Raises PhotoError if it is none of those accepted."""
    if not data:
        raise PhotoError("the file is empty")
    name, other = None, ""
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
    """Pillow's JPEG, less sensitive."""

    def _read_dpi_from_exif(self):
        """Pillow asks EXIF for the resolution, and broken EXIF can then cost a good photo. We need no resolution."""


def open_image(file, name):
    """The picture, only its header read. By class, not by `Image.open`: no other decoder of Pillow's can be reached."""
    if name == "WebP":
        from PIL.WebPImagePlugin import WebPImageFile  # the endpoint never needs it

        return WebPImageFile(file)
    return {"JPEG": Jpeg, "PNG": PngImageFile}[name](file)


def check_whole(data, name, start):
    """Raises PhotoError if the end of the file is missing or a checksum is wrong. The picture starts at `start`.

    Decoders let much pass: half a JPEG in a file that a copy filled up with zeros becomes a photo half grey.
    """
    if name == "JPEG":
        whole = data.find(b"\xff\xd9", start) >= 0       # the marker of the end, never part of a picture
    elif name == "WebP":
        whole = 8 + int.from_bytes(data[4:8], "little") <= len(data)
    else:
        whole = has_all_chunks(data)
    if not whole:
        raise PhotoError(f"truncated: the end of the {name} is missing")


def has_all_chunks(data):
    """Whether a PNG is there up to its last chunk; raises PhotoError if a chunk belies its checksum."""
    last = b""
    for start, end in chunks(data):
        if zlib.crc32(memoryview(data)[start:end]) != int.from_bytes(data[end:end + 4], "big"):
            raise PhotoError("damaged: a checksum in the PNG is wrong")
        last = data[start:start + 4]
    return last == b"IEND"


def chunks(data):
    """Where kind and content of each chunk of a PNG start and end: of those that are there whole, up to the last.

    A chunk is the length of its content (4 bytes), its kind (4), its content, and the CRC-32 of kind and content (4).
    """
    start, kind = 8, b""
    while kind != b"IEND" and start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        yield start + 4, end
        start = end + 4


def check_parts(data, name):
    """Raises PhotoError if a JPEG or PNG is in more parts than any photo. Pillow goes through them all: seconds for a million segments,
    for as many scans an hour."""
    if name == "PNG":
        kinds = Counter(data[start:start + 4] for start, _ in chunks(data))
        too_many = kinds.total() > max(1000, len(data) / LEAST_CHUNK) or sum(kinds[kind] for kind in PACKED) > MOST_PACKED
    else:
        too_many = name == "JPEG" and has_too_many_segments(data)
    if too_many:
        raise PhotoError(f"damaged: the {name} is in too many parts")


def has_too_many_segments(data):
    """Whether a JPEG has too many segments, or scans: segments that go over the whole picture once.

    A segment is FF and a byte, which says its kind, the length of what follows (2 bytes, counted), and its content. This must see
    every scan that libjpeg sees, so it skips what libjpeg skips.
    """
    at, segments, scans = 2, 0, 0
    while segments <= MOST_SEGMENTS and scans <= MOST_SCANS:
        found = MARKER.search(data, at)
        if not scans:                   # before the picture each stray byte takes time, too
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
    """The image decoded, made RGB and resized to size x size.

    libjpeg shrinks to 1/2, 1/4 or 1/8 while it decodes, which is fast; not below the square. Pillow does the rest, with a
    bicubic kernel that grows as the picture shrinks, so that there is no moiré.
    """
    drafted = image.draft(None, (size, size))       # None if not a JPEG
    box = drafted and drafted[1]        # 203 pixels are 25.375 after libjpeg: the last of its 26 is partly padding
    if image.mode.startswith("I"):      # 16-bit grey, and one shade of it may be transparent
        grey, shade = np.asarray(image), image.info.get("transparency")
        image.close()
        image = Image.fromarray((grey >> 8).astype(np.uint8))
        if shade is not None:
            image.putalpha(Image.fromarray(np.uint8(255) * (grey != shade)))
        del grey
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode != mode:
        converted = image.convert(mode)
        image.close()       # its pixels are needed no more, and can take as much memory as all the rest
        image = converted
    image = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def find_turn(image):
    """How the square has to be turned, as EXIF says: cheaper than to turn the photo. None if it is upright."""
    try:
        return TURN.get(image.getexif().get(ORIENTATION))
    except Exception:       # broken EXIF: the pixels are fine
        return None
