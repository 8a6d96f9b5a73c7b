"""PNG files: their chunks, and the samples of 16 bits.

A PNG is a row of chunks: the length of its content (4 bytes), its kind (4), the content, and a CRC-32 of kind
and content (4).

Next: profile.py
"""

import struct
import zlib
from collections import Counter
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

LEAST_CHUNK = 200           # bytes, on average: real photos have chunks of 8 KB
PACKED = b"iCCP", b"iTXt", b"zTXt"          # compressed chunks: each can expand to a megabyte
MOST_PACKED = 50
STRIP = 1 << 18             # pixels that are put together at a time


def chunks(data):
    """Yields (start, end) of the kind and content of each complete chunk."""
    start = 8
    kind = b""
    while kind != b"IEND" and start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        yield start + 4, end
        start = end + 4


def has_too_many_chunks(data: bytes) -> bool:
    """Whether a PNG has too many chunks, or too many compressed ones."""
    kinds = Counter(data[start:start + 4] for start, _ in chunks(data))
    return (kinds.total() > max(1000, len(data) / LEAST_CHUNK)
            or sum(kinds[kind] for kind in PACKED) > MOST_PACKED)


def has_end(data: bytes) -> bool | None:
    """Whether a PNG is complete up to its last chunk. None if a checksum is wrong."""
    last = b""
    for start, end in chunks(data):
        if zlib.crc32(memoryview(data)[start:end]) != int.from_bytes(data[end:end + 4], "big"):
            return None
        last = data[start:start + 4]
    return last == b"IEND"


def has_16_bits(data: bytes) -> bool:
    """Whether a PNG has samples of 16 bits, by its header, which is always the first chunk."""
    return data[24:25] == b"\x10"


def reduce_to_8_bits(image, data: bytes):
    """An opened PNG with samples of 16 bits -> an image with 8. May close the image."""
    significant = read_sbit(data)
    if image.mode.startswith("I"):
        return reduce_grey(image, significant)
    largest = max(high for _, high in image.getextrema()[:3])
    if used_bits(256 * largest + 255, significant) == 16:
        return image                        # Pillow has read the high bytes
    return add_low_bytes(image, read_low_bytes(data), significant)


def read_sbit(data):
    """How many bits of the colours are significant, by the chunk sBIT, at least 8, or 0 without the chunk."""
    for start, end in chunks(data):
        if data[start:start + 4] == b"sBIT":
            content = data[start + 4:end]
            return max(8, *content[:len(content) - 1 | 1])      # 2 and 4 numbers have one for alpha
        if data[start:start + 4] == b"IDAT":
            break
    return 0


def used_bits(most, significant):
    """How many bits samples of 16 use, if `most` is the largest.

    PNG wants samples of fewer bits scaled up to 16, but many programs store them as they are: such a picture
    would be black. A file that says how many bits are significant is believed. In others, cameras and sensors
    have 8, 10, 12 or 14. What needs 13 or 15 bits is a dark picture of 16.
    """
    if significant:
        return significant if most < 1 << significant else 16
    bits = most.bit_length()
    return 16 if bits in (13, 15) else max(8, bits + bits % 2)


def reduce_grey(image, significant):
    """16-bit grey -> 8-bit grey, with alpha if one of the 16-bit shades is transparent."""
    grey = np.asarray(image)
    shade = image.info.get("transparency")
    image.close()
    opaque = grey != shade if shade is not None else None
    most = int(grey.max(where=True if opaque is None else opaque, initial=0))
    image = Image.fromarray((grey >> used_bits(most, significant) - 8).astype(np.uint8))
    if opaque is not None:
        image.putalpha(Image.fromarray(np.uint8(255) * opaque))
    return image


def read_low_bytes(data):
    """The low bytes of 16-bit colours, of which Pillow reads the high ones: an image, in grey for grey."""
    image = PngImageFile(BytesIO(data))
    grey = image.tile[0].args == "LA;16B"
    rawmode = "RGBA" if grey else f"{image.mode};16L"       # RGBA: the two bytes of grey, and those of alpha
    image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    return image.getchannel("G") if grey else image


def add_low_bytes(image, low, significant):
    """Images of the high and low bytes -> one of the 8 highest bits used. Strips save memory."""
    width, height = image.size
    rows = max(1, STRIP // width)
    strips = [(0, top, width, min(height, top + rows)) for top in range(0, height, rows)]

    def samples(box):
        high = np.asarray(image.crop(box))[..., :3].astype(np.uint16)       # without alpha
        lower = np.asarray(low.crop(box))
        return 256 * high + (lower[..., None] if lower.ndim == 2 else lower[..., :3])

    shift = used_bits(max(int(samples(box).max()) for box in strips), significant) - 8
    for box in strips:
        pixels = np.array(image.crop(box))
        pixels[..., :3] = samples(box) >> shift
        image.paste(Image.fromarray(pixels), box)
    return image
