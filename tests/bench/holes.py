"""Damaged JPEGs: how many are noticed?   python -m tests.bench.holes PHOTOS [N]

Decodes all photos under PHOTOS, which should all be accepted. Then it encodes N of them (default: 200) in
other ways, which should be accepted, too, and damages each once for every size and filling: a hole at a
random place, or bytes lost or inserted. Damage is noticed if the data then do not fill the picture exactly.
Much of it leaves nothing to notice: most wrong bytes change a block or two, and the next one begins where it
should. The last columns say how much the pictures change whose damage is not noticed: the mean difference of
their pixels, of 255, by the median and the 90th percentile.

Where djpeg is installed, it is asked about the same files.
"""

import io
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from scene.photos.decode import PhotoError, decode

SIDE = 112
KINDS = {
    "as they are": None,
    "optimized": {"optimize": True, "quality": 85},
    "progressive": {"progressive": True, "quality": 85},
    "4:4:4, quality 98": {"quality": 98, "subsampling": 0},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "restart each row": {"restart_marker_rows": 1},
    "restart each 4 blocks": {"restart_marker_blocks": 4},
}
SIZES = 1, 8, 32, 128, 0.1, 0.33, 0.67          # bytes, or a share of the picture's data


def encode(data, options):
    """A photo encoded again."""
    if options is None:
        return data
    image = Image.open(io.BytesIO(data)).convert(options.get("mode", "RGB"))
    file = io.BytesIO()
    image.save(file, "JPEG", **{name: value for name, value in options.items() if name != "mode"})
    return file.getvalue()


def damaged(data, size, how, chance):
    """A copy of a JPEG with a hole in the picture's data."""
    start = data.index(b"\xff\xda") + 14
    end = data.rindex(b"\xff\xd9")
    size = min(size if size >= 1 else int(size * (end - start)), end - start - 8)
    at = chance.randrange(start, end - size)
    filling = {"00": bytes(size), "FF": b"\xff" * size, "random": chance.randbytes(size), "lost": b""}
    if how == "inserted":
        return data[:at] + chance.randbytes(size) + data[at:]
    return data[:at] + filling[how] + data[at + size:]


def pixels(data):
    """The pixels of a photo, or None if it is refused."""
    try:
        return decode(data, SIDE)
    except PhotoError:
        return None


def warns(data):
    """Whether djpeg warns of a photo, or refuses it."""
    done = subprocess.run(["djpeg", "-outfile", os.devnull], input=data, capture_output=True)
    return bool(done.stderr)


def main(folder, count):
    chance = random.Random(0)
    photos = sorted(path for path in Path(folder).rglob("*.jpg"))
    started = time.process_time()
    refused = [path for path in photos if pixels(path.read_bytes()) is None]
    seconds = time.process_time() - started
    each = 1e6 * seconds / len(photos)
    print(f"{len(photos)} photos, {each:.0f} µs of processor time each: {len(refused)} refused", *refused)
    chosen = [path.read_bytes() for path in chance.sample(photos, count)]
    for name, options in KINDS.items():
        good = [encode(data, options) for data in chosen]
        decoded = [pixels(data) for data in good]
        print(f"{name}: {sum(each is None for each in decoded)} of {count} refused")
        for how in "00", "FF", "random", "lost", "inserted":
            for size in SIZES:
                compare(name, how, size, good, decoded, chance)


def compare(name, how, size, good, decoded, chance):
    """Prints how much of one kind of damage is noticed."""
    noticed = warned = 0
    differences = [0.0]
    for data, expected in zip(good, decoded, strict=True):
        bad = damaged(data, size, how, chance)
        found = pixels(bad)
        noticed += found is None
        if shutil.which("djpeg"):
            warned += warns(bad)
        if found is not None:
            differences.append(abs(found.astype(int) - expected).mean())
    half, most = np.percentile(differences, [50, 90])
    shown = f"{size} bytes" if size >= 1 else f"{size:.0%}"
    print(f"  {how:8} {shown:>9}: {noticed} of {len(good)} noticed, djpeg warns of {warned}; "
          f"others differ by {half:.1f}, {most:.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200)
