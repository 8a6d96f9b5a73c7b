"""Small photos of every kind that the endpoint accepts, and of some that it refuses, for build.py's test."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def samples() -> dict[str, bytes]:
    """{name: bytes of a photo}, the same every time."""
    y, x = np.mgrid[0:150, 0:200]
    image = Image.fromarray(np.stack([x, y, x * y // 150 % 256], -1).astype(np.uint8))       # (H, W, 3)
    grey = Image.fromarray((x * y * 2).astype(np.uint16))
    jpeg = encode(image, "JPEG")
    png = encode(image, "PNG")
    cmyk = encode(image.convert("CMYK"), "JPEG")
    turned = Image.Exif()
    turned[0x0112] = 6                                      # orientation: a quarter turn
    upright = encode(image, "JPEG", exif=turned)
    return {
        "jpeg": jpeg,
        "jpeg smaller than the square": encode(image.resize((20, 15)), "JPEG"),
        "jpeg progressive": encode(image, "JPEG", progressive=True),
        "jpeg grey": encode(image.convert("L"), "JPEG"),
        "jpeg CMYK": cmyk,
        "jpeg YCCK": replace(cmyk, cmyk.index(b"Adobe") + 11, b"\2"),       # the colour transform
        "jpeg turned": upright,
        "jpeg with broken EXIF": replace(upright, upright.index(b"Exif") + 6, b"what?"),
        "jpeg with restart markers": encode(image, "JPEG", restart_marker_rows=1),
        "jpeg MPO": encode(image, "MPO", save_all=True, append_images=[image]),
        "png": png,
        "png black and white": encode(image.convert("1"), "PNG"),
        "png grey": encode(image.convert("L"), "PNG"),
        "png grey, transparent": encode(image.convert("LA"), "PNG"),
        "png grey, 16 bits": encode(grey, "PNG"),
        "png grey, 8 bits in 16": encode(Image.fromarray((x + 50).astype(np.uint16)), "PNG"),
        "png linear": png[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + png[33:],
        "png grey, 16 bits, transparent": encode(grey, "PNG", transparency=0),
        "png palette": encode(image.quantize(64), "PNG"),
        "png palette, transparent": encode(image.quantize(64), "PNG", transparency=bytes(range(64))),
        "png RGBA": encode(image.convert("RGBA"), "PNG"),
        "png one colour transparent": encode(image, "PNG", transparency=(0, 0, 0)),
        "png turned": encode(image, "PNG", exif=turned),
        "png animated": encode(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        "png interlaced": header(1, 1, interlaced=1) + rows(b"\0\x40\x80\xc0") + chunk(b"IEND"),
        "refused: empty": b"",
        "refused: text": b"ocean",
        "refused: half a jpeg": jpeg[:len(jpeg) // 2],
        "refused: jpeg with a hole": replace(jpeg, len(jpeg) // 2, bytes(len(jpeg) // 3)),
        "refused: jpeg without tables": replace(jpeg, 20, bytes(300)),
        "refused: png with a wrong checksum": replace(png, 60, b"\0\0\0\0"),
        "refused: png without pixels": header(200, 150) + chunk(b"IEND"),
        "refused: png of 10 billion pixels": header(100_000, 100_000) + chunk(b"IEND"),
    }


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def replace(data: bytes, start: int, part: bytes) -> bytes:
    """The data with `part` written over it at `start`."""
    return data[:start] + part + data[start + len(part):]


def header(width: int, height: int, interlaced: int = 0) -> bytes:
    """The start of an 8-bit RGB PNG. Pillow cannot write interlaced ones."""
    content = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", content)


def rows(pixels: bytes) -> bytes:
    """The chunk of a PNG that holds its pixels, each row preceded by the number of its filter."""
    return chunk(b"IDAT", zlib.compress(pixels))


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG: the length of its content, its kind, the content, and a checksum of both."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
