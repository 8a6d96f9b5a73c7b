"""Class folders -> pixels and labels. Finds every defect before training starts.

A data set is a folder with one subfolder for each class:

    train/ocean/001.jpg    train/ocean/002.jpg    train/road/a.png    …

`scan` looks at the names, `check` at what TRAIN and TEST say together, `load` at the photos. What they notice are Findings, and only
`load` raises them, all at once: nobody should learn of the second defect only after mending the first. The folders are only read.

Next: nn/arrays.py
"""

import hashlib
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from io import BytesIO

import numpy as np

from scene import photo
from scene.command import printable
from scene.cores import on_all_cores, shared_memory
from scene.findings import DataError, Finding

SUFFIXES = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PNG": (".png",), "WebP": (".webp",)}
HEIC = (".heic", ".heif")


@dataclass(frozen=True)
class Listing:
    """What `scan` found: classes and files sorted by name, whatever their order on the disk."""

    folder: str
    photos: dict[str, list[str]] = field(default_factory=dict)      # class name -> paths
    passed_over: Counter = field(default_factory=Counter)           # suffix, or "hidden", "folder", "no suffix" -> how many
    findings: list[Finding] = field(default_factory=list)

    @property
    def classes(self):
        """The names of the classes."""
        return list(self.photos)

    @property
    def paths(self):
        """The paths of all photos, class by class."""
        return [path for paths in self.photos.values() for path in paths]

    def note(self, verdict, path, what):
        """Adds a finding."""
        self.findings.append(Finding(verdict, printable(path), what))


@dataclass(frozen=True)
class Photos:
    """Decoded photos: pixels (N, S, S, 3) uint8, labels (N,) int64 that index `classes`, and the path of each photo."""

    pixels: np.ndarray
    labels: np.ndarray
    paths: list[str]
    classes: list[str]


def count(things, noun):
    """How many there are, in words: "1 photo", "2 photos"."""
    return f"1 {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


# Names


def scan(folder):
    """The Listing of a folder of class folders. What is wrong stands in there, nothing is raised."""
    listing = Listing(os.fspath(folder))
    try:
        folders, loose = entries(folder, listing.passed_over)
    except OSError as error:
        listing.note("error", folder, unreadable(error))
        return listing
    for path in sorted(folders, key=class_name):
        scan_class(path, listing)
    for name, other in find_clashes(listing.classes):
        listing.note("error", os.path.join(folder, name), f"only upper and lower case tell it from {printable(other)}: make them one")
    if not folders:
        listing.note("error", folder, "no class folders in it: make a folder of photos for each class")
    if loose:
        listing.note("warning", folder, f"passed over {count(loose, 'photo')} beside the class folders: move them into their classes")
    if heic := sum(listing.passed_over[suffix] for suffix in HEIC):
        advice = "export them as JPEG; a phone takes JPEG once its camera is set to Most Compatible"
        listing.note("warning", folder, f"passed over {heic} HEIC photos: {advice}")
    return listing


def scan_class(folder, listing):
    """Adds a class folder to the listing."""
    name = class_name(folder)
    if name in listing.photos:
        listing.note("error", folder, "two folders have this name, its letters encoded in two ways: make them one")
    if name != printable(name):
        listing.note("error", folder, "the name of a class must be plain text: rename the folder")
    listing.photos.setdefault(name, [])
    try:
        folders, photos = entries(folder, listing.passed_over)
    except OSError as error:
        listing.note("error", folder, unreadable(error))
        return
    listing.photos[name] += photos
    if not photos:
        listing.note("error", folder, "no photos in it: put JPEG, PNG or WebP files there, or delete the folder")
    if folders:
        listing.passed_over["folder"] += len(folders)
        listing.note("warning", folder, f"passed over {count(folders, 'folder')} inside the class: move their photos up into it")


def class_name(folder):
    """The class that a folder holds: its name, as NFC. A Mac may write ü as u and two dots where others write one letter."""
    return unicodedata.normalize("NFC", os.path.basename(folder))


def find_clashes(names):
    """Pairs of names that would be the same folder on Windows or a Mac."""
    first = {}
    return [(name, other) for name in names if (other := first.setdefault(name.lower(), name)) != name]


def entries(folder, passed_over):
    """(folders, photos) in a folder: paths, sorted by name. All else is counted in `passed_over`. Raises OSError."""
    folders, photos = [], []
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
    """Why a folder cannot be listed."""
    if isinstance(error, FileNotFoundError):
        return "no such folder: check the path"
    if isinstance(error, NotADirectoryError):
        return "not a folder: give one that holds a folder of photos for each class"
    return f"cannot be read: {error.strerror}"


def check(train, test):
    """The findings on TRAIN and TEST, two Listings, each and together.

    Classes are matched by name. TEST may lack some of TRAIN's classes, and has none that TRAIN lacks.
    """
    lonely = []
    if len(train.classes) == 1:
        only = printable(train.classes[0])
        lonely = [Finding("error", printable(train.folder), f"one class only, {only}: add a folder for what is not {only}")]
    return train.findings + lonely + check_test(train.classes, test, printable(train.folder))


def check_test(classes, test, owner="the model"):
    """The findings on TEST, given the classes of its owner, TRAIN or a model. Without classes, there is none to miss."""
    spelling = {name.casefold(): name for name in classes}
    findings, tested = list(test.findings), set(test.classes)
    for name in sorted(tested.difference(classes)) if classes else []:
        where, meant = printable(os.path.join(test.folder, name)), spelling.get(name.casefold())
        if meant is None:
            findings.append(Finding("error", where, f"{owner} has no class of this name: rename the folder, or delete it"))
        else:
            findings.append(Finding("error", where, f"in {owner} this class is spelt {printable(meant)}: rename one of them"))
            tested.add(meant)
    untested = [name for name in classes if name not in tested] if tested else []
    return findings + [Finding("warning", printable(os.path.join(test.folder, name)), "no such folder, so this class is not tested")
                       for name in untested]


# Photos


def load(listings, classes, size, findings=(), skip_bad=False):
    """Photos of size x size pixels for each listing, and all findings. A label is the place of the photo's class in `classes`.

    With `skip_bad`, photos that cannot be used are left out. Raises DataError if anything found, here or so far, is an error.
    """
    paths = [path for listing in listings for path in listing.paths]
    pixels, digests, noticed = decode_all(paths, size, "skipped" if skip_bad else "error")
    findings = [*findings, *noticed, *find_twins(listings, digests)]
    usable = [path in digests for path in paths]
    if skip_bad and not all(usable):
        pixels = pixels[usable]
        listings = [leave_out(listing, digests, findings) for listing in listings]
    if any(finding.verdict == "error" for finding in findings):
        raise DataError(findings, 0 if skip_bad else usable.count(False))

    sets, start = [], 0
    for listing in listings:
        labels = [classes.index(name) for name, photos in listing.photos.items() for _ in photos]
        end = start + len(labels)
        sets.append(Photos(pixels[start:end], np.array(labels, np.int64), listing.paths, list(classes)))
        start = end
    return sets, findings


TOGETHER = 8                # photos whose findings a process sends at once


def decode_all(paths, size, verdict):
    """Decodes photos on all cores: pixels (N, S, S, 3), {path: SHA-256 of the pixels}, findings.

    A photo that cannot be used has no SHA-256, and a finding with this verdict.
    """
    from tqdm import tqdm

    pixels = shared_memory((len(paths), size, size, 3), np.uint8)

    def look(i):
        where = printable(paths[i])
        try:
            data = photo.read(paths[i])
            pixels[i] = photo.decode(data, size)
        except photo.PhotoError as error:
            return None, Finding(verdict, where, str(error))
        odd = oddity(paths[i], data, size)
        return hashlib.sha256(pixels[i]).digest(), odd and Finding("accepted", where, odd)

    looks = list(tqdm(on_all_cores(look, len(paths), TOGETHER), desc="photos", total=len(paths), leave=False, disable=None))
    digests = {path: digest for path, (digest, _) in zip(paths, looks, strict=True) if digest}
    return pixels, digests, [finding for _, finding in looks if finding]


def oddity(path, data, size):
    """What its owner may not know of a photo that is used, or None."""
    kind = photo.find_format(data, photo.LOCAL.formats)
    image = photo.open_image(BytesIO(data), kind)
    if suffix_of(path) not in SUFFIXES[kind]:
        return f"a {kind}, whatever its name says"
    if getattr(image, "n_frames", 1) > 1:
        return "animated: its first picture is used"
    if min(image.size) < size // 2:
        return f"{image.width}x{image.height} pixels, enlarged to {size}x{size}"
    return None


def find_twins(listings, digests):
    """Findings on the same pixels in TRAIN and TEST, or in two classes. Twice in a class does no harm."""
    first, shared, contrary = {}, [], []
    for listing in listings:
        for name, path in ((name, path) for name, paths in listing.photos.items() for path in paths if path in digests):
            owner, other_name, other = first.setdefault(digests[path], (listing, name, path))
            where = f"{printable(path)} and {printable(other)}"
            if owner is not listing:
                shared.append(Finding("warning", where, "the same photo to test and to train"))
            elif name != other_name:
                contrary.append(Finding("warning", where, "the same photo in two classes: delete it from one"))
    if shared:
        train, test = listings
        what = f"{len(shared)} of {len(test.paths)} photos also in {printable(train.folder)}, which makes the result too good"
        shared.insert(0, Finding("warning", printable(test.folder), what))
    return shared + contrary


def leave_out(listing, digests, findings):
    """The listing without the photos that have no digest; adds an error for each class that loses all."""
    photos = {name: [path for path in paths if path in digests] for name, paths in listing.photos.items()}
    for name, paths in listing.photos.items():
        if paths and not photos[name]:
            where = printable(os.path.join(listing.folder, name))
            findings.append(Finding("error", where, "none of its photos can be used: put others there, or delete the folder"))
    return replace(listing, photos=photos)
