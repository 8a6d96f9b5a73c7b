"""Keeps decoded photos in a folder for the next run: decoding again takes minutes, opening a file does not.

An entry is the decoded photos of one folder, a file that is mapped into memory. So photos need not fit into
memory, processes share them, and the system reads from the disk what is used. It is named after the SHA-256
of everything that decoding depends on: the photos' paths, sizes and times (or their contents), the image size
and the decoder. Beside it lies an index with the hash of its details, which hold the hash of each photo. An
entry counts only if all of these fit: then nothing needs to be flushed, and a power cut costs no more than
the entry.

Next: split.py
"""

import hashlib
import json
import mmap
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import PIL
from PIL import features

from scene import files, memory
from scene.errors import UserError, printable
from scene.photos import pixels
from scene.photos.pixels import Decoded, Rows, arrays_in, decode_all, size_of
from scene.processes import parallel_map

LIMIT = 20                  # GB, by default
ENVIRONMENT = "SCENE_CACHE"         # a folder, if it is not --cache
SOURCES = "decode", "jpeg", "png", "profile", "hints", "duplicates", "pixels"       # an entry is of these
PHOTOS, INDEX, GROUPS = ".photos", ".index", ".groups"
ENTRY = re.compile(r"[0-9a-f]{64}\.(photos|index|groups)")          # other files are not ours to drop
UNFINISHED = re.compile(ENTRY.pattern + r"\..+\.part")


def default_folder() -> str:
    """The folder for caches of this user."""
    if found := os.environ.get(ENVIRONMENT) or os.environ.get("XDG_CACHE_HOME"):
        return found
    return os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")


class Cache:
    """The cache in a folder: in its subfolder `scene`, which only the user may read.

    limit: bytes of all entries together, of which the longest unused ones are dropped.
    by_contents: whether every photo's file is read to tell if it has changed.
    """

    def __init__(self, folder: str, limit: float = LIMIT * 1e9, by_contents: bool = False):
        self.folder = os.path.join(folder, "scene")
        self.limit = limit
        self.by_contents = by_contents
        self.version = decoder_version()
        self.used = set()           # the names of the entries of this run, which are not dropped

    def prepare(self) -> None:
        """Makes the folder, and says so. Raises OSError or UserError."""
        try:
            os.makedirs(os.path.dirname(self.folder), mode=0o700, exist_ok=True)
            os.mkdir(self.folder, 0o700)
            print(f"Decoded photos are kept in {printable(self.folder)} for the next run, at most "
                  f"{memory.size(self.limit)}: --cache-size. Other folders: --cache. None: --no-cache.",
                  flush=True)
        except FileExistsError:
            status = os.lstat(self.folder)
            if hasattr(os, "geteuid") and (status.st_uid, status.st_mode & 0o77) != (os.geteuid(), 0):
                raise UserError(f"{printable(self.folder)} is not yours alone, so others could change the "
                                "photos in it: name another folder with --cache.") from None

    def takes(self, photos: int, size: int) -> bool:
        """Whether so many photos fit into the cache, onto the disk, and into a limit of `ulimit -v`."""
        return size_of(photos, size) <= min([self.most(), *memory.address_space()])

    def most(self) -> float:
        """Bytes that entries may take, those of this run aside: within the limit, and on the disk."""
        own = sum(map(size_there, self.find(own=True)))
        others = sum(map(size_there, self.find(own=False)))
        return min(self.limit - own, others + shutil.disk_usage(self.folder).free)

    def room(self) -> str:
        """What limits the cache, in words."""
        free = memory.size(shutil.disk_usage(self.folder).free)
        return f"at most {memory.size(self.limit)}: --cache-size; {free} are free on its disk"

    def decode_all(self, paths: Sequence[str], size: int) -> Decoded:
        """The decoded photos, from an entry if there is one. If not, makes one, or uses memory instead."""
        name = self.key(paths, size)
        self.used.add(name)
        path = os.path.join(self.folder, name)
        if found := self.open(path, len(paths), size):
            return found
        if not self.takes(len(paths), size):
            return decode_all(paths, size)
        self.make_room(size_of(len(paths), size))
        try:
            return self.build(path, paths, size)
        except OSError as error:
            if memory.is_exhausted(error):
                raise
            print(f"Note: {printable(self.folder)} cannot keep the decoded photos ({error.strerror}), so "
                  "they are in memory.", flush=True)
            return decode_all(paths, size)

    def key(self, paths, size):
        """The name of the entry for photos: a SHA-256 in hex."""
        def describe(path):
            with suppress(OSError):
                if self.by_contents:
                    with open(path, "rb") as file:
                        return pixels.suffix_of(path), hashlib.file_digest(file, "sha256").hexdigest()
                status = os.stat(path)
                return os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns
            return path, "unreadable"

        sha = hashlib.sha256(f"{self.version} {size}\n".encode())
        for found in parallel_map(describe, paths, 64) if self.by_contents else map(describe, paths):
            sha.update(f"{found}\n".encode("utf-8", "surrogateescape"))
        return sha.hexdigest()

    def open(self, path, photos, size):
        """The decoded photos of an entry, or None if there is none, or one that is damaged."""
        try:
            with open(path + INDEX, "rb") as file:
                data = file.read()
            index = json.loads(data[32:])
            with open(path + PHOTOS, "rb") as file:
                array, details, ahead = attach(file.fileno(), photos, size)
            problems, oddities = ({int(i): text for i, text in index[name].items()}
                                  for name in ("problems", "oddities"))
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        hashes = hashlib.sha256(data[32:]).digest(), hashlib.sha256(details).hexdigest()
        found = Decoded(Rows(array, ahead=ahead), details, problems, oddities)
        if hashes != (data[:32], index.get("details")) or not pixels.are_whole(found):
            print("Note: the cache of decoded photos is damaged, so they are decoded again.", flush=True)
            return None
        with suppress(OSError):
            os.utime(path + PHOTOS)                     # used just now
        return found

    def build(self, path, paths, size):
        """Decodes photos into a new entry. Raises OSError."""
        for part in self.find(UNFINISHED):
            files.sweep(part.rsplit(".", 3)[0])         # of killed runs
        with files.temporary(path + PHOTOS) as file:
            total = max(1, size_of(len(paths), size))
            file.truncate(total)
            with suppress(AttributeError):              # without it, a full disk would end a worker
                os.posix_fallocate(file.fileno(), 0, total)
            with open(file.name, "r+b") as both:
                decoded = decode_all(paths, size, mmap.mmap(both.fileno(), total))
                array, details, ahead = attach(both.fileno(), len(paths), size)
            decoded = decoded._replace(pixels=Rows(array, ahead=ahead), details=details)
            if not decoded.unread and self.key(paths, size) == os.path.basename(path):
                index = {"details": hashlib.sha256(details).hexdigest(), "problems": decoded.problems,
                         "oddities": decoded.oddities}
                data = json.dumps(index).encode()
                os.replace(file.name, path + PHOTOS)
                files.write(path + INDEX, hashlib.sha256(data).digest() + data)
        return decoded

    def recall(self, content: bytes, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The int64 array (N,) that `compute` returned for this content before, in any run."""
        path = os.path.join(self.folder, hashlib.sha256(self.version.encode() + content).hexdigest() + GROUPS)
        with suppress(OSError), open(path, "rb") as file:
            data = file.read()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return np.frombuffer(data[32:], np.int64).copy()
        found = compute()
        if found.nbytes <= self.most():
            with suppress(OSError):
                files.write(path, hashlib.sha256(found).digest() + found.tobytes())
        return found

    def make_room(self, needed):
        """Drops entries, the longest unused first, until there is room for so many bytes."""
        entries = {}
        for path in self.find(own=False):
            entries.setdefault(name_of(path), []).append(path)
        used = sum(map(size_there, self.find(own=False)))
        most = self.most()
        dropped = 0
        for paths in sorted(entries.values(), key=lambda paths: max(map(time_there, paths))):
            if used + needed <= most:
                break
            for path in paths:
                used -= size_there(path)
                dropped += path.endswith(PHOTOS)
                with suppress(OSError):
                    os.unlink(path)
        if dropped:
            print(f"The oldest decoded photos in {printable(self.folder)} were dropped, since it holds at "
                  f"most {memory.size(self.limit)}: --cache-size.", flush=True)

    def find(self, pattern=ENTRY, own=None):
        """The paths of the files of entries, of this run's own, or of all others."""
        names = [name for name in os.listdir(self.folder) if pattern.fullmatch(name)]
        return [os.path.join(self.folder, name) for name in names
                if own is None or (name_of(name) in self.used) == own]


def name_of(path):
    """The name of the entry that a file belongs to."""
    return os.path.basename(path).partition(".")[0]


def size_there(path):
    with suppress(OSError):
        return os.path.getsize(path)
    return 0


def time_there(path):
    with suppress(OSError):
        return os.path.getmtime(path)
    return 0


def attach(handle, photos, size):
    """Maps an open file into memory: -> pixels, details, and a function that fetches rows of pixels.

    Raises OSError, or ValueError if the file has not the right size.
    """
    mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    if len(mapped) != max(1, size_of(photos, size)):
        raise ValueError("not the size of these photos")
    array, details = arrays_in(mapped, photos, size)
    if not hasattr(mapped, "madvise"):
        return array, details, None

    def advise(option, start, end):
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(option, first, end - first)

    def ahead(rows):
        for row in np.atleast_1d(rows).tolist():
            advise(mmap.MADV_WILLNEED, row * length, (row + 1) * length)

    length = size * size * 3
    if photos:
        advise(mmap.MADV_RANDOM, 0, array.nbytes)       # a photo's neighbours are not the next to be read
        advise(mmap.MADV_WILLNEED, array.nbytes, len(mapped))
    return array, details, ahead


def decoder_version():
    """A hash that changes with the code that decodes, and the libraries that it calls."""
    sha = hashlib.sha256(f"{PIL.__version__} {np.__version__}".encode())
    for library in "jpg", "webp", "zlib":
        sha.update(str(features.version(library)).encode())
    for name in SOURCES:
        with open(os.path.join(os.path.dirname(__file__), f"{name}.py"), "rb") as file:
            sha.update(file.read())
    return sha.hexdigest()


def make_cache(options) -> Cache | None:
    """The cache that a command's options ask for, or None if the user's own cannot be used."""
    if options.no_cache or os.name == "nt":         # where a file that is open cannot be replaced
        return None
    cache = Cache(options.cache or default_folder(), options.cache_size * 1e9, options.check_contents)
    try:
        cache.prepare()
    except (OSError, UserError) as error:
        if options.cache:
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"Note: decoded photos are not kept for the next run ({reason}).", flush=True)
        return None
    return cache
