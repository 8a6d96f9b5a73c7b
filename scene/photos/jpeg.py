"""JPEG files: their parts, and a decoder that notices missing data.

A JPEG is a row of segments: FF, a kind, a length and a content. A segment of kind DA is followed by the
entropy data of a scan, the picture itself, up to the next marker. In them, a byte FF is followed by 00, or by
D0 to D7: a restart marker, which divides the data into intervals.

libjpeg decodes whatever it finds. If an interval has too few data it fills in grey, and if it has too many it
skips the rest. It warns of both, but Pillow does not pass the warnings on. So `load` hands the data over in
pieces. Just before the end of an interval, libjpeg must still wait for data, and just after it no more.

Next: png.py
"""

import math
import re
import struct
from typing import NamedTuple

from PIL import Image

# Each part of a file takes time and memory, however few pixels it has. Real photos have a few dozen segments.
MOST_SEGMENTS = 1000
MOST_INTERVALS = 5000       # with more of them in a scan, only their numbers are checked
# The marker of a segment. Other bytes are image data, padding, or skipped by libjpeg.
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
ANY_MARKER = re.compile(rb"\xff[\x01-\xfe]")
LONE_MARKERS = {0xc8, 0xd8, 0xd9, *range(0xf0, 0xf7), *range(0xf8, 0xfe)}       # no length follows these
RESTARTS = range(0xd0, 0xd8)
RESTART_INTERVAL = 0xdd
TABLES = 0xc4               # of Huffman codes
END = 0xd9
START_OF_SCAN = 0xda
FRAMES = {*range(0xc0, 0xd0), 0xf7} - {TABLES, 0xc8, 0xcc}      # the segments with the picture's size
SEQUENTIAL = {0xc0, 0xc1}
LOSSLESS = 0xc3
ARITHMETIC = {0xc9, 0xca}   # libjpeg needs such data in one piece
SUPPORTED = SEQUENTIAL | ARITHMETIC | {0xc2, LOSSLESS}
HOLE = bytes(16)            # 128 zero bits are up to 42 equal coefficients, which no picture has in a row
LOOK_AHEAD = 8              # bytes that libjpeg wants to see behind the last one that it needs


class Header(NamedTuple):
    """What `read_header` finds in a JPEG."""

    segments: int           # counted until there are more than MOST_SEGMENTS
    scans: int              # each covers the whole picture once
    kind: int               # the second byte of the frame's marker, C0 for baseline, or 0 without a frame
    bits: int               # of a sample
    in_rows: bool           # whether the first scan has all that a row of the picture needs


def segments(data: bytes, at: int = 2):
    """Yields (kind, start, end) of each segment's length and content. Skips the same bytes as libjpeg."""
    while found := MARKER.search(data, at):
        kind = found[0][1]
        start = at = found.end()
        if kind not in LONE_MARKERS:
            at += max(2, int.from_bytes(data[at:at + 2], "big"))
        yield kind, start, at


def read_header(data: bytes) -> Header:
    """Walks through all segments of a JPEG, as far as libjpeg would.

    A frame is its length (2 bytes), bits of a sample (1), height (2), width (2), number of components (1), …
    and a scan's header its length (2), number of components (1), …
    """
    many = scans = kind = 0
    frame = bytes(8)
    in_rows = False
    last = 2
    for marker, start, end in segments(data):
        if scans and marker == END:
            break
        if not scans:                       # before the first scan, stray bytes take time, too
            many += (start - 2 - last) // 100
        if marker in FRAMES and not kind:
            kind, frame = marker, data[start:start + 8].ljust(8, b"\0")
        if marker == START_OF_SCAN and not scans:
            in_rows = kind in SEQUENTIAL and data[start + 2:start + 3] == frame[7:8]
        scans += marker == START_OF_SCAN
        many += 1
        last = end
        if many > MOST_SEGMENTS:
            break
    if not scans:
        many += (len(data) - last) // 100
    return Header(many, scans, kind, frame[2], in_rows)


class Decoder:
    """libjpeg, as Pillow wraps it, fed in pieces."""

    def __init__(self, image):
        image.load_prepare()
        _, extents, _, arguments = image.tile[0]
        self.codec = Image.core.jpeg_decoder(image.mode, *arguments, *image.decoderconfig)
        self.codec.setimage(image.im, extents)
        self.rest = b""             # what it did not take yet
        self.done = False           # whether all rows are decoded
        self.failed = False

    def feed(self, data):
        """Hands over more data."""
        if self.done:
            return
        data = self.rest + bytes(data) if self.rest else data
        taken, error = self.codec.decode(data)
        self.done = taken < 0
        self.failed = error < 0
        self.rest = b"" if self.done else bytes(data[taken:])

    def is_idle(self, data):
        """Hands over at least two bytes, one by one. Returns whether it took each at once.

        Between intervals libjpeg looks for a marker, byte by byte. Within one it waits for 8 bytes.
        """
        idle = True
        for i in range(len(data)):
            self.feed(data[i:i + 1])
            idle &= not self.rest
        return idle


def load(image, data: bytes, header: Header, start: int) -> bool:
    """Decodes the pixels of an opened image, whose first scan has its data at `start`.

    Returns False if the data do not fill the picture exactly. Padding before a marker, 00 or FF, is ignored.
    Raises OSError if libjpeg gives up.
    """
    decoder = Decoder(image)
    try:
        fed = 0
        if header.kind not in ARITHMETIC:
            decoder.feed(memoryview(data)[:start])
            fed = check_scans(decoder, data, start)
            if fed is None and not decoder.failed:
                return False
        decoder.feed(memoryview(data)[fed:])
        if decoder.failed or not decoder.done:
            raise OSError("libjpeg cannot decode it")
    finally:
        decoder.codec.cleanup()
    image.tile = []                         # tells Pillow that the pixels are there
    return True


def check_scans(decoder, data, fed):
    """Decodes all scans. Returns the end of what was handed over, or None if one does not fit the picture."""
    codes = {}
    frame = b""
    side = 8
    interval = last = 0
    for kind, start, end in segments(data):
        if last and data[last:start - 2].strip(b"\xff"):
            return None                     # stray bytes, where a segment may have been
        content = data[start + 2:end]
        last = last and end                 # of a scan, or a segment after it
        if kind == TABLES:
            codes |= find_zero_codes(content)
        elif kind == RESTART_INTERVAL:
            interval = int.from_bytes(content[:2], "big")
        elif kind in FRAMES and not frame:
            frame = content
            side = 1 if kind == LOSSLESS else 8
        elif kind == START_OF_SCAN:
            restarts = (count_units(frame, content, side) - 1) // interval if interval else 0
            fed = last = check_scan(decoder, data, fed, end, has_no_zeros(content, codes), restarts)
            if fed is None or decoder.done:
                break
        elif kind == END and frame:
            break
    return fed


def check_scan(decoder, data, fed, start, no_zeros, restarts):
    """Decodes the scan whose data begin at `start`. Returns their end, or None if they do not fit."""
    number = 0                              # of restart markers
    while True:
        found = ANY_MARKER.search(data, start)
        end = found.start() if found else len(data)
        restart = found and found[0][1] in RESTARTS
        if number < MOST_INTERVALS or not restart:
            if not check_interval(decoder, data[fed:start], data[start:end], no_zeros):
                return None
            fed = end
        if not restart:
            return end if number == restarts else None
        if found[0][1] != RESTARTS[number % 8]:
            return None
        number += 1
        start = found.end()


def check_interval(decoder, before, data, no_zeros):
    """Decodes the entropy data up to a marker. Returns whether they are exactly what libjpeg needs."""
    data = data.rstrip(b"\xff")             # padding
    hole = data.find(HOLE) if no_zeros else -1
    if b"\xff\xff" in data or hole >= 0 and data[hole:].strip(b"\0"):
        return False
    if hole >= 0:
        data = data[:hole]                  # padding, too
    if data.endswith(b"\xff"):
        data += b"\0"
    last = len(data.rstrip(b"\0\xff"))      # zeros may be either
    decoder.feed(before + data[:max(0, last - 2)])
    if last and decoder.is_idle(data[max(0, last - 2):last]):
        return False                        # it has all that it needs, but there is more
    # These bytes cannot complete a block: zeros are too few coefficients, or else ones are no Huffman code.
    decoder.feed(data[last:] + (b"\0" if no_zeros else b"\xff\0") * LOOK_AHEAD)
    return decoder.is_idle(b"\0\0")         # else it has all that there is, but needs more


def count_units(frame, scan, side):
    """How many units a scan has, which restart intervals count: blocks of side x side samples.

    In a scan of several components, a unit has blocks of all of them, and the finest has the most.
    frame: bits of a sample (1 byte), height (2), width (2), number of components (1), and for each of them
    its name, its sampling factors (4 bits each) and a table.   scan: number of components, and for each its
    name and tables.
    """
    height, width, count = struct.unpack_from(">xHHB", frame)
    sampling = {frame[6 + 3 * i]: divmod(frame[7 + 3 * i], 16) for i in range(count)}
    most = [max(factors) for factors in zip(*sampling.values(), strict=True)]
    own = sampling[scan[1]] if scan[0] == 1 else most
    units = 1
    for pixels, factor, finest in zip((width, height), own, most, strict=True):
        samples = math.ceil(pixels * factor / finest)
        units *= math.ceil(samples / (side if scan[0] == 1 else side * finest))
    return units


def find_zero_codes(data):
    """{number: symbol} of the AC tables in a segment: the symbol whose code is all zeros, its first."""
    codes = {}
    while len(data) > 17:
        size = 17 + sum(data[1:17])
        codes[data[0]] = data[17]
        data = data[size:]
    return {table & 15: symbol for table, symbol in codes.items() if table >> 4}


def has_no_zeros(header, codes):
    """Whether no picture has 128 zero bits in a scan, since by one of its tables they are coefficients.

    By other tables they are the end of a block, and pictures of one plain colour hold many. And in scans of
    single coefficients, neighbouring blocks can be alike.
    """
    if len(header) < 4 or len(header) < 4 + 2 * header[0]:
        return False
    tables = header[2:1 + 2 * header[0]:2]
    first, last, approximation = header[-3:]        # which coefficients, and how many bits of them are known
    return last - first > 3 and approximation < 16 and any(codes.get(table & 15, 0) & 15 for table in tables)
