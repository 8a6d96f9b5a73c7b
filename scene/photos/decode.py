"""Photo bytes -> pixels: the one decoder, for training, testing, the command line and the endpoint.

Photos come from many kinds of cameras and, at the endpoint, from strangers. Whatever the bytes are, `decode`
either returns the whole photo or raises PhotoError with one sentence to show. It allocates no memory for
pixels before it has checked how many there are.

Next: jpeg.py
"""

import math
import os
import re
import stat
import warnings
from datetime import datetime
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from scene.photos import jpeg, png
from scene.photos.profile import to_srgb

# Pillow warns about harmless oddities, in EXIF or animations. Everything that matters is a PhotoError.
warnings.filterwarnings("ignore", module=r"PIL\.")

ORIENTATION = 0x0112        # the EXIF tag for how the camera was held, 1 to 8
EXIF = 0x8769               # where EXIF keeps the tags about taking the photo
TAKEN = 0x9003              # of these: when
CHANGED = 0x0132            # when the file was made: not all photos have TAKEN
TURN = {                    # the transposition that makes a photo upright (1 already is)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,         # Pillow counts anticlockwise: a quarter turn clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MOST_SCANS = 20             # of the largest picture, as each takes time for all pixels: real photos have 10
# A sequential JPEG is shrunk row by row while it is decoded. So its pixels take time, but hardly any memory.
MOST_SHRINKING = 16
# Of any other, libjpeg keeps all coefficients, 2 bytes each, beside the shrunk picture, 4 bytes a pixel. This
# limit admits CMYK shrunk by 4 or 8. An extremely narrow photo is shrunk less, and needs more.
MOST_PER_PIXEL = 8.5        # bytes
GAP = 2.0                   # how many times larger than the square a photo stays when it is shrunk in a hurry
STRIP = 1 << 18             # pixels that are copied at a time
INVISIBLE = 32              # a picture on a background with less contrast than this


STARTS = {                  # how files of each format start
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "BMP": rb"BM.{4}\0{4}",
    "GIF": rb"GIF8[79]a",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "HEIC, AVIF or a video": rb".{4}ftyp",
    "page": rb"\s*<",
    "pointer": rb"version https://git-lfs",
}
OTHERS = {                  # what to say about those that cannot simply be exported
    "WebP": ": export it as JPEG",
    "PNG": "",
    "page": " but a web page",
    "pointer": " but a Git LFS pointer: run git lfs pull to get the photo itself",
}


class PhotoError(ValueError):
    """The bytes are not a photo that we can use. One sentence says why, without a path."""


class UnsupportedPhoto(PhotoError):
    """The bytes are no photo, or a photo of a kind that Scene cannot read."""


class PhotoTooLarge(PhotoError):
    """The photo has more bytes or pixels than the limits allow."""


class Limits(NamedTuple):
    """The photos that `decode` accepts. JPEG includes MPO, which many phones write and call JPEG."""

    formats: tuple[str, ...]
    max_bytes: int
    max_pixels: int         # in memory at the same time


# For the user's own photos. Decoding needs up to 4 bytes per pixel, on each core, or 8 for 16 bits, WebP and
# progressive CMYK. Phones take up to 200 million pixels, but as sequential JPEGs, which need next to nothing.
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
    - Grey, black and white, palette: their RGB colours. CMYK, YCCK: Pillow's formula.
    - Matrix colour profiles, such as Display P3 or ProPhoto: converted to sRGB. Others are ignored.
    - Transparency: over white, or over black if nothing could be seen on white. One transparent colour of
      16-bit RGB is not applied, since Pillow does not report it.
    - 16 bits a channel: the highest 8 of those that the photo uses. Animations and MPO: the first picture.

    Raises PhotoError if the bytes are not one whole photo, PhotoTooLarge if it is over the limits.
    """
    check_bytes(len(data), limits)
    name = find_format(data, limits.formats)
    header = check_parts(data, name)
    file = BytesIO(data)
    start = 0
    try:
        image = open_image(file, name)
        start = file.tell()
        box = draft(image, size, limits, header)
        check_whole(data, name, start)
        turn = find_turn(image)         # before the image is closed
        image, info = load(image, data, name, header, start), image.info
        square = to_srgb(np.array(stretch(image, size, box)), info)
        return square if turn is None else np.array(Image.fromarray(square).transpose(turn))
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

    Raises UnsupportedPhoto if the format is not among those accepted.
    """
    if not data:
        raise UnsupportedPhoto("the file is empty")
    name = next((name for name, start in STARTS.items() if re.match(start, data, re.DOTALL)), "")
    if name in accepted:
        return name
    what = f"not a {', '.join(accepted[:-1])} or {accepted[-1]} photo"
    raise UnsupportedPhoto(what + OTHERS.get(name, f" but {name}: export it as JPEG" if name else ""))


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


def check_parts(data, name):
    """Raises PhotoError if a JPEG or PNG has more parts than any real photo, or is of an unsupported kind.

    Pillow reads all parts, which takes seconds for a million segments, and an hour for a million scans.
    Returns the Header of a JPEG.
    """
    header = jpeg.read_header(data) if name == "JPEG" else None
    if name == "PNG" and png.has_too_many_chunks(data) or header and header.segments > jpeg.MOST_SEGMENTS:
        raise PhotoError(f"damaged: the {name} has too many parts")
    if header and header.bits not in (0, 8):
        raise UnsupportedPhoto(f"a JPEG of {header.bits} bits per sample, which is not supported: "
                               "export it as a JPEG of 8 bits")
    if header and header.kind not in {0, *jpeg.SUPPORTED}:
        raise UnsupportedPhoto(f"a JPEG of a rare kind (SOF{header.kind - 0xc0}), which is not supported: "
                               "export it as an ordinary JPEG")
    return header


def check_whole(data, name, start):
    """Raises PhotoError if the file's end is missing or a checksum is wrong. The picture starts at `start`.

    Decoders are too lenient: a half-copied JPEG, padded with zeros, decodes to a photo that is half grey.
    """
    if name == "JPEG":
        whole = data.find(b"\xff\xd9", start) >= 0       # the end marker, which image data cannot contain
    elif name == "WebP":
        whole = 8 + int.from_bytes(data[4:8], "little") <= len(data)
    else:
        whole = png.has_end(data)
        if whole is None:
            raise PhotoError("damaged: a checksum in the PNG is wrong")
    if not whole:
        raise PhotoError(f"truncated: the end of the {name} is missing")


def draft(image, size, limits, header):
    """Prepares a JPEG to be shrunk while it is decoded. Returns the box that holds the picture, or None.

    libjpeg shrinks by 2, 4 or 8, which is fast, but never below the square. Raises PhotoTooLarge.
    """
    width, height = image.size
    drafted = image.draft(None, (size, size)) if header and header.kind != jpeg.LOSSLESS else None
    times = 1
    if header and header.in_rows:
        times = min(MOST_SHRINKING, round(width / image.width) ** 2)
    elif header:
        shrunk = image.width * image.height / (width * height)
        times = min(1, MOST_PER_PIXEL / (2 * image.layers + 4 * shrunk))
    if width * height > times * limits.max_pixels:
        most = f"at most {times * limits.max_pixels / 1e6:.5g} million are accepted"
        raise PhotoTooLarge(f"{width}x{height} pixels; {most}: shrink it first")
    if header and header.scans * width * height > MOST_SCANS * limits.max_pixels:
        most = MOST_SCANS * limits.max_pixels // (width * height)
        raise PhotoTooLarge(f"{header.scans} scans of {width}x{height} pixels; at most {most} are accepted "
                            "at this size: shrink it first")
    return drafted and drafted[1]       # 203 pixels / 8 = 25.375: the last of libjpeg's 26 is partly padding


def load(image, data, name, header, start):
    """Decodes the pixels of an opened photo -> an image with 8 bits per sample. Raises PhotoError."""
    if name == "JPEG" and not jpeg.load(image, data, header, start):
        raise PhotoError("damaged: some of the JPEG's data are missing or wrong")
    return png.reduce_to_8_bits(image, data) if name == "PNG" and png.has_16_bits(data) else image


def stretch(image, size, box):
    """Converts an image to RGB and resizes it to size x size.

    The bicubic kernel widens as the picture shrinks, which avoids moiré. Closes the image.
    """
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode != mode:
        converted = image.convert(mode)
        image.close()       # frees its pixels, which can take as much memory as all the rest
        image = converted
    if mode == "RGBA":
        return lay_over(shrink_transparent(image, size))
    return image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=GAP)


def shrink_transparent(image, size):
    """The same for RGBA, but without a copy of the whole image, as `resize` makes it.

    Colours have to be multiplied by alpha first (mode RGBa), so that what cannot be seen does not count. So
    strips are multiplied and shrunk by whole numbers, and the result, still too large, is resized.
    """
    width, height = image.size
    x, y = (max(1, int(length / size / GAP)) for length in image.size)
    small = Image.new("RGBa", (math.ceil(width / x), math.ceil(height / y)))
    rows = max(1, STRIP // (width * y))                     # of the small image
    for top in range(0, small.height, rows):
        strip = image.crop((0, top * y, width, min((top + rows) * y, height))).convert("RGBa")
        small.paste(strip.reduce((x, y)), (0, top))
    box = 0, 0, width / x, height / y
    return small.resize((size, size), Image.Resampling.BICUBIC, box).convert("RGBA")


def lay_over(image):
    """A transparent image on white, or on black if it is white itself, as icons can be."""
    white, black = (Image.alpha_composite(Image.new("RGBA", image.size, color), image).convert("RGB")
                    for color in ("white", "black"))
    return black if contrast(white) < min(INVISIBLE, contrast(black)) else white


def contrast(image):
    """The largest difference between two pixels of an RGB image, in any colour."""
    return max(high - low for low, high in image.getextrema())


def find_turn(image):
    """The transposition that EXIF asks for, or None. Turning the square is cheaper than turning the photo."""
    try:
        return TURN.get(image.getexif().get(ORIENTATION))
    except Exception:       # EXIF is broken, but the pixels may be fine
        return None


def find_time(data: bytes) -> float:
    """When the photo was taken, as its EXIF says, in seconds since some moment, or NaN if it does not say.

    Of a PNG, only EXIF before the pixels is seen, since the rest would have to be decoded.
    """
    try:
        exif = Image.Exif()
        exif.load(open_image(BytesIO(data), find_format(data, LOCAL.formats)).info.get("exif", b""))
        found = exif.get_ifd(EXIF).get(TAKEN) or exif.get(TAKEN) or exif.get(CHANGED)
        return datetime.strptime(found[:19], "%Y:%m:%d %H:%M:%S").timestamp()
    except Exception:       # as in `find_turn`
        return math.nan
