"""Class folders -> pixels and labels. Finds every defect before training starts.

A data set is a folder with one subfolder for each class:

    train/ocean/001.jpg    train/ocean/002.jpg    train/road/a.png    …

`scan` checks the names, `check` compares TRAIN with TEST, and `load` decodes the photos. Each returns
Findings. Only `load` raises an error, with all of them at once, so that nobody has to fix one defect to learn
of the next. Nothing is written to the folders.

Next: sets.py
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO

import numpy as np

from scene.errors import is_printable, listed, printable
from scene.files import is_path_component
from scene.photos import decode
from scene.photos.findings import DataError, Finding
from scene.photos.hints import count, no_photos, to_export
from scene.processes import parallel_map, shared_memory

TOGETHER = 8                # a process sends the results of this many photos at once
SUFFIXES = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PNG": (".png",), "WebP": (".webp",)}
LEAK = "the same photo in the test and the training set"


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

    def note(self, verdict, path, what):
        """Adds a finding."""
        self.findings.append(Finding(verdict, printable(path), what))


@dataclass(frozen=True)
class Photos:
    """Decoded photos: pixels (N, S, S, 3) uint8, labels (N,) int64 that index `classes`, and N paths."""

    pixels: np.ndarray
    labels: np.ndarray
    paths: list[str]
    classes: list[str]


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
    findings = list(train.findings)
    if len(train.classes) == 1:
        only = printable(train.classes[0])
        what = f"only one class, {only}: add a folder of photos that are not {only}"
        findings.append(Finding("error", printable(train.folder), what))
    findings += find_same_folders(train, test)
    return findings + check_test(train.classes, test, printable(train.folder))


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
         skip_bad: bool = False) -> tuple[list[Photos], list[Finding]]:
    """Decodes the photos of each listing to size x size pixels. Returns them with all findings, old and new.

    A label is the index of the photo's class in `classes`. `skip_bad` leaves out photos that cannot be used.
    Raises DataError if any finding is an error.
    """
    paths = [path for listing in listings for path in listing.paths]
    pixels, digests, noticed = decode_all(paths, size, "skipped" if skip_bad else "error")
    findings = [*findings, *noticed, *find_duplicates(listings, digests)]
    usable = [path in digests for path in paths]
    if skip_bad and not all(usable):
        pixels = close_up(pixels, usable)
        listings = [leave_out(listing, digests, findings) for listing in listings]
    if any(finding.verdict == "error" for finding in findings):
        raise DataError(findings, 0 if skip_bad else usable.count(False))

    sets = []
    start = 0
    for listing in listings:
        labels = [classes.index(name) for name, photos in listing.photos.items() for _ in photos]
        end = start + len(labels)
        sets.append(Photos(pixels[start:end], np.array(labels, np.int64), listing.paths, list(classes)))
        start = end
    return sets, findings


def decode_all(paths, size, verdict):
    """Decodes photos on all cores -> pixels (N, S, S, 3), {path: SHA-256 of its pixels}, findings.

    The SHA-256 of a picture of one plain colour is that of its path, so it is no duplicate of another.
    A photo that cannot be used gets no SHA-256, but a finding with this verdict.
    """
    from tqdm import tqdm

    tqdm.monitor_interval = 0       # a thread of its own, which a process that forks had better not have
    pixels = shared_memory((len(paths), size, size, 3), np.uint8)

    def decode_one(i):
        where = printable(paths[i])
        try:
            data = decode.read(paths[i])
            pixels[i] = decode.decode(data, size)
        except decode.PhotoError as error:
            return None, Finding(verdict, where, str(error))
        odd = oddity(paths[i], data, size)
        plain = (pixels[i] == pixels[i][0, 0]).all()        # two of one colour need not be the same photo
        digest = hashlib.sha256(os.fsencode(paths[i]) if plain else pixels[i]).digest()
        return digest, odd and Finding("accepted", where, odd)

    results = parallel_map(decode_one, range(len(paths)), TOGETHER)
    results = list(tqdm(results, desc="photos", total=len(paths), leave=False, disable=None))
    digests = {path: digest for path, (digest, _) in zip(paths, results, strict=True) if digest}
    return pixels, digests, [finding for _, finding in results if finding]


def close_up(pixels, usable):
    """The usable photos alone, moved together in place: there may be no memory for a copy of them."""
    kept = np.flatnonzero(usable)
    for to, i in enumerate(kept):
        if to != i:
            pixels[to] = pixels[i]
    return pixels[:len(kept)]


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


def find_duplicates(listings, digests):
    """Findings on duplicates in TRAIN and TEST, or in two classes. Within a class they do no harm."""
    first = {}
    in_both_sets = []
    in_two_classes = []
    photos = [(listing, name, path) for listing in listings
              for name, paths in listing.photos.items() for path in paths if path in digests]
    for listing, name, path in photos:
        owner, other_name, other = first.setdefault(digests[path], (listing, name, path))
        where = f"{printable(path)} and {printable(other)}"
        if owner is not listing:
            in_both_sets.append(Finding("warning", where, LEAK))
        elif name != other_name:
            what = "the same photo in two classes: move it out of one of them"
            in_two_classes.append(Finding("warning", where, what))
    if in_both_sets and is_same(listings[0].folder, listings[1].folder):
        in_both_sets = []                       # an error already, in `find_same_folders`
    if in_both_sets:
        train, test = listings
        number = f"{len(in_both_sets)} of {count(len(test.paths), 'photo')}"
        what = f"{number} also in {printable(train.folder)}, so the accuracy will be too high"
        in_both_sets.insert(0, Finding("warning", printable(test.folder), what))
    return in_both_sets + in_two_classes


def count_leaks(findings: Sequence[Finding]) -> int:
    """How many photos of TEST are in TRAIN, too."""
    return sum(finding.what == LEAK for finding in findings)


def leave_out(listing, digests, findings):
    """The listing without photos that have no digest. Adds an error for each class that loses all photos."""
    photos = {name: [path for path in paths if path in digests] for name, paths in listing.photos.items()}
    for name, paths in listing.photos.items():
        if paths and not photos[name]:
            where = printable(os.path.join(listing.folder, name))
            what = "none of its photos can be used: add others, or move the folder elsewhere"
            findings.append(Finding("error", where, what))
    return replace(listing, photos=photos)
