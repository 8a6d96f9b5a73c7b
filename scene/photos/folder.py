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
from typing import NamedTuple

import numpy as np

from scene.errors import is_printable, listed, printable
from scene.files import is_path_component
from scene.photos import duplicates
from scene.photos.cache import Cache
from scene.photos.findings import DataError, Finding
from scene.photos.hints import SUFFIXES, count, no_photos, suffix_of, to_export
from scene.photos.pixels import Rows, decode_all

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

    hashes: (N, 32) uint8, the SHA-256 of each photo's pixels.
    groups: (N,) int64, equal for photos that belong together: copies, near-copies and bursts.
    soft: (N, K) float32, soft labels, a probability of each class, by the models distilled_from (entries for
    a card, see learn/distill.py).
    """

    pixels: np.ndarray | Rows
    labels: np.ndarray
    paths: list[str]
    classes: list[str]
    groups: np.ndarray | None = None
    hashes: np.ndarray | None = None
    soft: np.ndarray | None = None
    distilled_from: list[dict] | None = None


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
         skip_bad: bool = False, divide: Callable | None = None,
         cache: Cache | None = None) -> tuple[list[Photos], list[Finding]]:
    """Decodes the photos of each listing to size x size pixels. Returns them with all findings, old and new.

    A label is the index of the photo's class in `classes`. `skip_bad` leaves out photos that cannot be used.
    divide(listing, groups) divides a single listing into those of TRAIN and TEST, as photos/split.py does,
    and returns them with its findings. With a cache, photos are not decoded again. Raises DataError if any
    finding is an error.
    """
    decode = cache.decode_all if cache else decode_all
    found = [decode(listing.paths, size) for listing in listings]
    findings = [*findings, *find_odd(listings, found, "skipped" if skip_bad else "error")]
    known = know(listings, found, cache)
    unusable = sum(len(decoded.problems) for decoded in found)
    if skip_bad and unusable:
        listings = [leave_out(listing, known, findings) for listing in listings]
    if divide and not any(finding.verdict == "error" for finding in findings):
        listings, noticed = divide(listings[0], {path: photo.group for path, photo in known.items()})
        findings += noticed
        found = found * 2
    findings += find_duplicates(listings, known)
    if any(finding.verdict == "error" for finding in findings):
        raise DataError(findings, 0 if skip_bad else unusable)
    return [take(*each, classes, known) for each in zip(listings, found, strict=True)], findings


def take(listing, decoded, classes, known):
    """The Photos of a listing, out of all that were decoded."""
    number = {name: k for k, name in enumerate(classes)}
    labels = [number[name] for name, photos in listing.photos.items() for _ in photos]
    chosen = np.array([known[path].index for path in listing.paths], np.int64)
    groups = np.array([known[path].group for path in listing.paths], np.int64)
    return Photos(Rows(decoded.pixels, chosen), np.array(labels, np.int64), listing.paths, list(classes),
                  groups, decoded.details["hash"][chosen])


class Known(NamedTuple):
    """What `load` knows of a usable photo."""

    index: int          # of its pixels, among those of its listing
    digest: bytes       # Decoded.digest
    copies: int         # the first photo among its copies, counted over all listings
    group: int          # the first photo among its copies and the bursts that it belongs to


def know(listings, found, cache):
    """What is known of each usable photo: {path: Known}."""
    paths = [path for listing in listings for path in listing.paths]
    names = [name for listing in listings for name, photos in listing.photos.items() for _ in photos]
    indices = [i for listing in listings for i in range(len(listing.paths))]
    digests = [decoded.digest(i, os.fsencode(path)) for listing, decoded in zip(listings, found, strict=True)
               for i, path in enumerate(listing.paths)]
    details = [decoded.details for decoded in found]
    copies = find_copies(details, digests, cache)
    times = np.concatenate([part["time"] for part in details])
    groups = duplicates.join_bursts(copies, names, times)
    photos = zip(indices, digests, copies.tolist(), groups.tolist(), strict=True)
    return {path: Known(*photo) for path, photo in zip(paths, photos, strict=True) if photo[1]}


def find_copies(details, digests, cache):
    """Groups of copies over all listings, as duplicates.find_groups returns them."""
    def compute():
        pictures = [part["picture"] for part in details]
        return duplicates.find_groups(digests, np.concatenate(pictures) if pictures[1:] else pictures[0])

    if not cache:
        return compute()
    content = [hashlib.sha256(part).digest() for part in details]
    return cache.recall(b"".join([*content, *(digest or b"none" for digest in digests)]), compute)


def find_odd(listings, found, verdict):
    """Findings on single photos: those that cannot be used, with this verdict, and odd ones."""
    for listing, decoded in zip(listings, found, strict=True):
        paths = listing.paths
        notes = [(i, verdict, what) for i, what in decoded.problems.items()]
        notes += [(i, "accepted", what) for i, what in decoded.oddities.items()]
        for i, how, what in sorted(notes):
            yield Finding(how, printable(paths[i]), what)


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
