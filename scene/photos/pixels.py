"""Decodes many photos on all cores, into memory or into a file, and reads some of them without copying all.

Next: cache.py
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np

from scene.photos import decode, duplicates
from scene.photos.hints import SUFFIXES, suffix_of
from scene.processes import parallel_map, shared_memory

TOGETHER = 8                # a process sends the results of this many photos at once
PART = 256                  # photos that are read at once
DETAILS = np.dtype([        # of a photo, beside its pixels
    ("hash", np.uint8, 32),                                             # the SHA-256 of its pixels
    ("picture", np.uint8, (duplicates.SIDE, duplicates.SIDE)),          # for duplicates.py
    ("time", "<f8"),                                                    # when it was taken, NaN if unknown
    ("plain", np.bool_),                                                # all of one colour
])


class Rows:
    """Photos out of many, in an order of their own, without a copy of them: rows of an array.

    source: (M, S, S, 3), of NumPy or torch, or other Rows, and which of it. Indexing reads photos: pixels[i],
    pixels[:9], pixels[mask], as an array does. So does torch's index_select.
    ahead(rows): called before these rows are read, where the array is a file that may have to be fetched.
    """

    def __init__(self, source, which=slice(None), ahead: Callable | None = None):
        inner = isinstance(source, Rows)
        self.array = source.array if inner else source
        self.order = (source.order if inner else np.arange(len(source)))[which]
        self.ahead = source.ahead if inner else ahead
        self.shape = (len(self.order), *self.array.shape[1:])
        self.dtype = self.array.dtype

    def __len__(self):
        return len(self.order)

    def __getitem__(self, which):
        return self.read(self.order[which])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)

    def index_select(self, axis, which):
        """The photos with these indices, as `Tensor.index_select` has them."""
        return self.read(self.order[which])

    def split(self, size):
        """Yields parts of so many photos, as `Tensor.split` returns them."""
        return (self[start:start + size] for start in range(0, len(self), size))

    def read(self, rows):
        if self.ahead:
            self.ahead(rows)
        if hasattr(self.array, "index_select"):         # for whole rows it is faster than an index
            return self.array.index_select(0, rows)
        return self.array[rows]

    def to_torch(self, device="cpu"):
        """The photos for torch. For the CPU they stay where they are, for a GPU they are copied."""
        import torch  # here, not above: prediction needs none

        if device != "cpu":
            return torch.from_numpy(self[:]).to(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # a file is read-only, and nobody writes to it
            rows = Rows(torch.from_numpy(self.array), ahead=self.ahead)
        rows.order = torch.from_numpy(self.order.copy())
        rows.shape = self.shape
        rows.device = rows.array.device
        return rows


class Decoded(NamedTuple):
    """Photos, in the order of their paths, those that cannot be used included."""

    pixels: Rows                    # uint8 (N, S, S, 3)
    details: np.ndarray             # (N,) of DETAILS
    problems: dict[int, str]        # why photo i cannot be used
    oddities: dict[int, str]        # what the owner of photo i may not know about it
    unread: int = 0                 # photos that the system did not let us read: next time it may

    def digest(self, i: int, path: bytes) -> bytes | None:
        """The SHA-256 of photo i's pixels, None if it cannot be used.

        Two pictures of one plain colour need not be the same photo, so theirs is that of the path.
        """
        if i in self.problems:
            return None
        if self.details["plain"][i]:
            return hashlib.sha256(path).digest()
        return self.details["hash"][i].tobytes()


def size_of(photos: int, size: int) -> int:
    """The bytes that so many decoded photos take, with size x size pixels."""
    return photos * (size * size * 3 + DETAILS.itemsize)


def arrays_in(memory, photos: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and the details of decoded photos in memory, or in a file that is mapped into it."""
    end = photos * size * size * 3
    pixels = np.frombuffer(memory, np.uint8, end).reshape(photos, size, size, 3)
    return pixels, np.frombuffer(memory, DETAILS, photos, end)


def decode_all(paths: Sequence[str], size: int, memory=None) -> Decoded:
    """Decodes photos on all cores, to size x size pixels, in memory of `size_of` bytes that processes share.

    Without such memory, it makes some.
    """
    from tqdm import tqdm

    tqdm.monitor_interval = 0       # a thread of its own, which a process that forks had better not have
    if memory is None:
        memory = shared_memory((size_of(len(paths), size),), np.uint8)
    pixels, details = arrays_in(memory, len(paths), size)

    def decode_one(i):
        """Why it cannot be used, what is odd about it, and whether it could not even be read."""
        try:
            data = decode.read(paths[i])
            pixels[i] = decode.decode(data, size)
            large = pixels[i] if size >= duplicates.SIDE else decode.decode(data, duplicates.SIDE)
        except decode.PhotoError as error:
            return str(error), None, isinstance(error.__cause__, OSError)
        plain = (pixels[i] == pixels[i][0, 0]).all()
        hashed = np.frombuffer(hashlib.sha256(pixels[i]).digest(), np.uint8)
        details[i] = hashed, duplicates.shrink(large), decode.find_time(data), plain
        return None, oddity(paths[i], data, size), False

    results = parallel_map(decode_one, range(len(paths)), TOGETHER)
    problems, oddities, unread = {}, {}, 0
    for i, (problem, odd, failed) in enumerate(
            tqdm(results, desc="photos", total=len(paths), leave=False, disable=None)):
        if problem:
            problems[i] = problem
        if odd:
            oddities[i] = odd
        unread += failed
    return Decoded(Rows(pixels), details, problems, oddities, unread)


def oddity(path, data, size):
    """Something that the owner of a usable photo may not know about it, or None."""
    kind = decode.find_format(data, decode.LOCAL.formats)
    image = decode.open_image(BytesIO(data), kind)
    if suffix_of(path) not in SUFFIXES[kind]:
        return f"a {kind}, despite its name"
    if getattr(image, "n_frames", 1) > 1:
        return "animated: only its first picture is used"
    if min(image.size) < size // 2:
        return f"{image.width}x{image.height} pixels, enlarged to {size}x{size}"
    return None


def are_whole(decoded: Decoded) -> bool:
    """Whether the pixels of all photos still have their hashes."""
    hashes = decoded.details["hash"]

    def is_whole(start):
        part = decoded.pixels[start:start + PART]
        return all(hashlib.sha256(photo).digest() == hashes[i].tobytes()
                   for i, photo in enumerate(part, start) if i not in decoded.problems)

    return all(parallel_map(is_whole, range(0, len(hashes), PART)))
