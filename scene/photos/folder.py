"""Class folders -> pixels and labels. Finds every defect before training starts.

A data set is a folder with one subfolder for each class:

    train/ocean/001.jpg    train/ocean/002.jpg    train/road/a.png    …

`scan` checks the names, `check` compares TRAIN with TEST, and `load` decodes the photos. Each returns
Findings. Only `load` raises an error, with all of them at once, so that nobody has to fix one defect to learn
of the next. Nothing is written to the folders.

Next: duplicates.py
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import NamedTuple

import numpy as np

from scene.errors import is_printable, listed, printable
from scene.files import is_path_component
from scene.photos import decode, duplicates
from scene.photos.findings import DataError, Finding
from scene.photos.hints import count, no_photos, to_export
from scene.processes import parallel_map, shared_memory

TOGETHER = 8                # a process sends the results of this many photos at once
SUFFIXES = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PNG": (".png",), "WebP": (".webp",)}
LEAK = "the same photo in the test and the training set"
NEAR_LEAK = "nearly the same photo in the test and the training set"


@dataclass(frozen=True)
class Listing:
    """The result of `scan`. Classes and files are sorted by name, whatever their order on the disk.

    passed_over counts everything but photos, by suffix, or as "hidden", "folder" or "no suffix".
    """

    folder: str
    photos: dict[str, list[str]] = field(default_factory=dict)      # class name -> paths
    passed_over: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.photos)

    @property
    def paths(self) -> list[str]:
        """The paths of all photos, class by class."""
        return [path for paths in self.photos.values() for path in paths]

    @property
    def average(self) -> float:
        """Photos of each class, on average."""
        return len(self.paths) / max(1, len(self.photos))

    def note(self, verdict, path, what):
        """Adds a finding."""
        self.findings.append(Finding(verdict, printable(path), what))


@dataclass(frozen=True)
class Photos:
    """Decoded photos: pixels (N, S, S, 3) uint8, labels (N,) int64 that index `classes`, and N paths.

    groups: (N,) int64, equal for photos that belong together: copies, near-copies and bursts.
    """

    pixels: np.ndarray
    labels: np.ndarray
    paths: list[str]
    classes: list[str]
    groups: np.ndarray | None = None


# Names


def scan(folder: str | os.PathLike) -> Listing:
    """Lists a folder of class folders. Defects become findings of the Listing: nothing is raised."""
    listing = Listing(os.fspath(folder))
    try:
        folders, loose = entries(folder, listing.passed_over)
    except OSError as error:
        listing.note("error", folder, unreadable(error))
        return listing
    for path in sorted(folders, key=class_name):
        scan_class(path, listing)
    if not listing.paths and (deeper := [path for path in sorted(folders) if has_classes(path)]):
        names = listed([printable(path) for path in deeper], 3)
        listing.photos.clear()
        listing.findings.clear()
        what = f"one level too high, since the class folders are in {names}: name that"
        listing.note("error", folder, what)
        return listing
    for name, other in find_clashes(listing.classes):
        what = f"differs from {printable(other)} only in case: move the photos of both into one"
        listing.note("error", os.path.join(folder, name), what)
    if not folders:
        what = "it has no class folders: make a subfolder of photos for each class"
        if loose:
            what = (f"it has {count(len(loose), 'photo')}, but no class folders: make one for each class, or "
                    "name the folder above it")
        listing.note("error", folder, what)
    elif loose:
        number = count(len(loose), "photo")
        what = f"passed over {number} beside the class folders: move them into their classes"
        listing.note("warning", folder, what)
    for what in to_export(listing.passed_over):
        listing.note("warning", folder, what)
    return listing


def scan_class(folder, listing):
    """Adds a class folder to the listing."""
    name = class_name(folder)
    if name in listing.photos:
        what = "two folders have this name in different Unicode forms: move the photos of both into one"
        listing.note("error", folder, what)
    if not is_printable(name) or not is_path_component(name):
        what = "a class name must be printable, without backslashes, and at most 255 bytes: rename the folder"
        listing.note("error", folder, what)
    listing.photos.setdefault(name, [])
    passed_over = Counter()
    try:
        folders, photos = entries(folder, passed_over)
    except OSError as error:
        listing.note("error", folder, unreadable(error))
        return
    listing.photos[name] += photos
    listing.passed_over.update(passed_over)
    if folders:
        listing.passed_over["folder"] += len(folders)
    if not photos:
        listing.note("error", folder, no_photos(passed_over, len(folders)))
    elif folders:
        number = count(len(folders), "folder")
        what = f"passed over {number} inside the class: move their photos up into it"
        listing.note("warning", folder, what)


def has_classes(folder):
    """Whether there are photos in a folder's folders: then they are classes."""
    try:
        return any(entries(path, Counter())[1] for path in entries(folder, Counter())[0])
    except OSError:
        return False


def class_name(folder):
    """The class of a folder: its name in Unicode form NFC. A Mac may store ü as u and two dots."""
    return unicodedata.normalize("NFC", os.path.basename(folder))


def find_clashes(names):
    """Pairs of names that would be the same folder on Windows or a Mac, which ignore case."""
    first = {}
    return [(name, other) for name in names if (other := first.setdefault(name.lower(), name)) != name]


def entries(folder, passed_over):
    """Sorted paths of the (folders, photos) in a folder. Counts the rest in `passed_over`. Raises OSError."""
    folders = []
    photos = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".") or name == "__MACOSX":
            passed_over["hidden"] += 1
        elif os.path.isdir(path):
            folders.append(path)
        elif any(suffix_of(name) in suffixes for suffixes in SUFFIXES.values()):
            photos.append(path)
        else:
            passed_over[suffix_of(name) or "no suffix"] += 1
    return folders, photos


def suffix_of(path):
    """The end of a file's name, in lower case: ".jpg"."""
    return os.path.splitext(path)[1].lower()


def unreadable(error):
    """The reason why a folder cannot be listed, and advice."""
    if isinstance(error, FileNotFoundError):
        return "no such folder: check the path"
    if isinstance(error, NotADirectoryError):
        return "not a folder: name one that has a subfolder of photos for each class"
    return f"cannot be read: {error.strerror}"


def check(train: Listing, test: Listing) -> list[Finding]:
    """The findings on TRAIN and TEST, separately and compared.

    Classes are matched by name. TEST may lack some of TRAIN's classes, but may have no others.
    """
    findings = check_train(train) + find_same_folders(train, test)
    return findings + check_test(train.classes, test, printable(train.folder))


def check_train(train: Listing) -> list[Finding]:
    """The findings on TRAIN alone."""
    findings = list(train.findings)
    if len(train.classes) == 1:
        only = printable(train.classes[0])
        what = f"only one class, {only}: add a folder of photos that are not {only}"
        findings.append(Finding("error", printable(train.folder), what))
    return findings


def find_same_folders(train, test):
    """An error if TEST is TRAIN, or for each class folder that both share, by whatever path or link."""
    what = "the same folder as {}: test on photos that the network is not trained on"
    if is_same(train.folder, test.folder):
        return [Finding("error", printable(test.folder), what.format(printable(train.folder)))]
    pairs = [(os.path.dirname(paths[0]), os.path.dirname(test.photos[name][0]))
             for name, paths in train.photos.items() if paths and test.photos.get(name)]
    return [Finding("error", printable(theirs), what.format(printable(ours)))
            for ours, theirs in pairs if is_same(ours, theirs)]


def is_same(path, other):
    """Whether two paths lead to one folder."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def check_test(classes: Sequence[str], test: Listing, owner: str = "the model") -> list[Finding]:
    """Findings on TEST, compared with the classes of `owner`: a model, or TRAIN, which may have none."""
    spelling = {name.casefold(): name for name in classes}
    findings = list(test.findings)
    tested = set(test.classes)
    for name in sorted(tested.difference(classes)) if classes else []:
        what = f"{owner} has no class of this name: rename the folder, or move it elsewhere"
        if meant := spelling.get(name.casefold()):
            what = f"in {owner} this class is spelt {printable(meant)}: rename one of them"
            tested.add(meant)
        findings.append(Finding("error", printable(os.path.join(test.folder, name)), what))
    for name in classes if tested else []:
        if name not in tested:
            where = printable(os.path.join(test.folder, name))
            findings.append(Finding("warning", where, "no such folder, so this class is not tested"))
    return findings


# Photos


def load(listings: list[Listing], classes: Sequence[str], size: int, findings: Sequence[Finding] = (),
         skip_bad: bool = False, divide: Callable | None = None) -> tuple[list[Photos], list[Finding]]:
    """Decodes the photos of each listing to size x size pixels. Returns them with all findings, old and new.

    A label is the index of the photo's class in `classes`. `skip_bad` leaves out photos that cannot be used.
    divide(listing, groups) divides a single listing into those of TRAIN and TEST, as photos/split.py does,
    and returns them with its findings. Raises DataError if any finding is an error.
    """
    paths = [path for listing in listings for path in listing.paths]
    names = [name for listing in listings for name, photos in listing.photos.items() for _ in photos]
    pixels, pictures, times, digests, noticed = decode_all(paths, size, "skipped" if skip_bad else "error")
    findings = [*findings, *noticed]
    copies = duplicates.find_groups(digests, pictures)
    groups = duplicates.join_bursts(copies, names, times)
    known = {path: Known(i, digests[i], copies[i], groups[i]) for i, path in enumerate(paths) if digests[i]}
    unusable = digests.count(None)
    if skip_bad and unusable:
        listings = [leave_out(listing, known, findings) for listing in listings]
    if divide and not any(finding.verdict == "error" for finding in findings):
        listings, noticed = divide(listings[0], {path: photo.group for path, photo in known.items()})
        findings += noticed
    findings += find_duplicates(listings, known)
    if any(finding.verdict == "error" for finding in findings):
        raise DataError(findings, 0 if skip_bad else unusable)

    pixels = rearrange(pixels, [known[path].index for listing in listings for path in listing.paths])
    sets = []
    start = 0
    for listing in listings:
        labels = [classes.index(name) for name, photos in listing.photos.items() for _ in photos]
        groups = np.array([known[path].group for path in listing.paths], np.int64)
        end = start + len(labels)
        labels = np.array(labels, np.int64)
        sets.append(Photos(pixels[start:end], labels, listing.paths, list(classes), groups))
        start = end
    return sets, findings


class Known(NamedTuple):
    """What `load` knows of a usable photo."""

    index: int          # of its pixels
    digest: bytes       # the SHA-256 of its pixels
    copies: int         # the first photo among its copies
    group: int          # the first photo among its copies and the bursts that it belongs to


def decode_all(paths, size, verdict):
    """Decodes photos on all cores. Returns, for N of them:

    pixels (N, S, S, 3), small pictures (N, SIDE, SIDE), times (N,), the SHA-256 of each photo's pixels, and
    findings. The SHA-256 of a picture of one plain colour is that of its path, so it is no duplicate of
    another. A photo that cannot be used has None for a SHA-256, and a finding with this verdict.
    """
    from tqdm import tqdm

    tqdm.monitor_interval = 0       # a thread of its own, which a process that forks had better not have
    pixels = shared_memory((len(paths), size, size, 3), np.uint8)
    pictures = shared_memory((len(paths), duplicates.SIDE, duplicates.SIDE), np.uint8)
    times = shared_memory((len(paths),), np.float64)

    def decode_one(i):
        where = printable(paths[i])
        try:
            data = decode.read(paths[i])
            pixels[i] = decode.decode(data, size)
            large = pixels[i] if size >= duplicates.SIDE else decode.decode(data, duplicates.SIDE)
        except decode.PhotoError as error:
            return None, Finding(verdict, where, str(error))
        pictures[i] = duplicates.shrink(large)
        times[i] = decode.find_time(data)
        odd = oddity(paths[i], data, size)
        plain = (pixels[i] == pixels[i][0, 0]).all()        # two of one colour need not be the same photo
        digest = hashlib.sha256(os.fsencode(paths[i]) if plain else pixels[i]).digest()
        return digest, odd and Finding("accepted", where, odd)

    results = parallel_map(decode_one, range(len(paths)), TOGETHER)
    results = list(tqdm(results, desc="photos", total=len(paths), leave=False, disable=None))
    digests = [digest for digest, _ in results]
    return pixels, pictures, times, digests, [finding for _, finding in results if finding]


def rearrange(pixels, order):
    """pixels[order], in place: there may be no memory for a copy. The order names no photo twice."""
    everything = np.concatenate([order, np.setdiff1d(np.arange(len(pixels)), order)]).astype(np.int64)
    moved = everything == np.arange(len(pixels))
    for start in np.flatnonzero(~moved):
        if moved[start]:
            continue
        first = pixels[start].copy()
        to = start
        while everything[to] != start:              # a cycle: each photo goes where the one before came from
            pixels[to] = pixels[everything[to]]
            moved[to] = True
            to = everything[to]
        pixels[to] = first
        moved[to] = True
    return pixels[:len(order)]


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


def find_duplicates(listings, known):
    """Findings on copies in TRAIN and TEST, or in two classes. Within a class they do no harm."""
    first = {}
    first_alike = {}
    leaks = []
    in_two_classes = []
    for photo in ((listing, name, path) for listing in listings
                  for name, paths in listing.photos.items() for path in paths if path in known):
        listing, name, path = photo
        others = [(first.setdefault(known[path].digest, photo), "the same photo", LEAK),
                  (first_alike.setdefault(known[path].copies, photo), "nearly the same photo", NEAR_LEAK)]
        for (owner, other_name, other), what, leak in others:
            where = f"{printable(path)} and {printable(other)}"
            if owner is not listing:
                leaks.append(Finding("warning", where, leak))
                break
            if name != other_name:
                what = f"{what} in two classes: move it out of one of them"
                in_two_classes.append(Finding("warning", where, what))
                break
    if leaks and is_same(listings[0].folder, listings[1].folder):
        leaks = []                              # an error already, in `find_same_folders`
    return [*sum_up(leaks, listings), *leaks, *in_two_classes]


def sum_up(leaks, listings):
    """Findings on TEST: how many of its photos are in TRAIN, or nearly."""
    for leak, how in (LEAK, "also in"), (NEAR_LEAK, "are near-copies of photos in"):
        if number := sum(finding.what == leak for finding in leaks):
            train, test = listings
            share = f"{number} of {count(len(test.paths), 'photo')}"
            what = f"{share} {how} {printable(train.folder)}, so the accuracy will be too high"
            yield Finding("warning", printable(test.folder), what)


def count_leaks(findings: Sequence[Finding]) -> dict[str, int]:
    """How many photos of TEST are in TRAIN, too, and how many others are near-copies of photos in TRAIN."""
    return {"leaks": sum(finding.what == LEAK for finding in findings),
            "near_leaks": sum(finding.what == NEAR_LEAK for finding in findings)}


def leave_out(listing, known, findings):
    """The listing without photos that are not known. Adds an error for each class that loses all photos."""
    photos = {name: [path for path in paths if path in known] for name, paths in listing.photos.items()}
    for name, paths in listing.photos.items():
        if paths and not photos[name]:
            where = printable(os.path.join(listing.folder, name))
            what = "none of its photos can be used: add others, or move the folder elsewhere"
            findings.append(Finding("error", where, what))
    return replace(listing, photos=photos)
