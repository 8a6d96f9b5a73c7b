"""Class folders -> pixels and labels. Finds every defect before training starts.

A data set is a folder with one subfolder for each class:

    train/ocean/001.jpg    train/ocean/002.jpg    train/road/a.png    …

`scan` looks at the names, `check` at what TRAIN and TEST say together, `load` at the photos. What is wrong is
collected: nobody should learn of the second bad photo only after mending the first.

Next: augment.py
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from scene import photo
from scene.command import UserError, printable

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp")
HEIC = (".heic", ".heif")


class DataError(UserError):
    """What is wrong with the folders. `problems`: a sentence for each, with its path."""

    def __init__(self, problems):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Listing:
    """What `scan` found: classes and files sorted by name, whatever their order on the disk."""

    folder: str
    photos: dict[str, list[str]] = field(default_factory=dict)  # class name -> paths
    skipped: Counter = field(default_factory=Counter)  # suffix, or "hidden", "folder", "no suffix" -> how many
    problems: list[str] = field(default_factory=list)  # sentences: why the folder cannot be used
    notes: list[str] = field(default_factory=list)  # sentences: what its owner may want to know

    @property
    def classes(self):
        return list(self.photos)

    @property
    def paths(self):
        return [path for paths in self.photos.values() for path in paths]


@dataclass(frozen=True)
class Photos:
    """Decoded photos: pixels (N, S, S, 3) uint8, labels (N,) int64 that index `classes`, and the path of each photo."""

    pixels: np.ndarray
    labels: np.ndarray
    paths: list[str]
    classes: list[str]


def scan(folder):
    """Look through a folder of class folders. Returns a `Listing`; what is wrong stands in there, nothing is raised."""
    listing = Listing(os.fspath(folder))
    shown = printable(folder)
    try:
        folders, loose = _entries(folder, listing.skipped)
    except OSError as error:
        listing.problems.append(_unreadable(folder, error))
        return listing
    for path in folders:
        _scan_class(path, listing)
    if not folders:
        listing.problems.append(f"{shown} holds no class folders: make a folder of photos for each class in it.")
    if loose:
        found = _count(loose, "photo")
        listing.notes.append(f"{shown}: passed over {found} beside the class folders: move them into their classes.")
    if heic := sum(listing.skipped[suffix] for suffix in HEIC):
        advice = "export them as JPEG; a phone takes JPEG once its camera is set to Most Compatible"
        listing.notes.append(f"{shown}: passed over {heic} HEIC photos: {advice}.")
    return listing


def _scan_class(folder, listing):
    """Add a class folder to the listing."""
    name, shown = os.path.basename(folder), printable(folder)
    listing.photos[name] = []
    if name != printable(name):
        listing.problems.append(f"{shown}: the name of a class must be plain text: rename the folder.")
    try:
        folders, photos = _entries(folder, listing.skipped)
    except OSError as error:
        listing.problems.append(_unreadable(folder, error))
        return
    listing.photos[name] = photos
    if not photos:
        listing.problems.append(f"{shown} holds no photos: put JPEG, PNG or WebP files in it, or delete the folder.")
    if folders:
        listing.skipped["folder"] += len(folders)
        found = _count(folders, "folder")
        listing.notes.append(f"{shown}: passed over {found} inside the class: move their photos up into it.")


def _entries(folder, skipped):
    """(folders, photos) in a folder: paths, sorted by name. All else is counted in `skipped`. Raises OSError."""
    folders, photos = [], []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith(".") or name == "__MACOSX":
            skipped["hidden"] += 1
        elif os.path.isdir(path):
            folders.append(path)
        elif suffix in SUFFIXES:
            photos.append(path)
        else:
            skipped[suffix or "no suffix"] += 1
    return folders, photos


def _unreadable(folder, error):
    if isinstance(error, FileNotFoundError):
        return f"{printable(folder)} does not exist: check the path."
    if isinstance(error, NotADirectoryError):
        return f"{printable(folder)} is not a folder: give one that holds a folder of photos for each class."
    return f"{printable(folder)} cannot be read: {error.strerror}."


def _count(things, noun):
    return f"1 {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def check(train, test):
    """Check what TRAIN and TEST say together. Returns warnings; raises `DataError` with all that is wrong.

    Classes are matched by name. TEST may lack some of TRAIN's classes, and has none that TRAIN lacks.
    """
    problems = list(train.problems)
    if len(train.classes) == 1:
        only = printable(train.classes[0])
        problems.append(f"{printable(train.folder)} holds one class only, {only}: add a folder for what is not {only}.")
    return train.notes + _match(train.classes, printable(train.folder), test, problems)


def check_test(classes, test):
    """Check TEST against the classes of a trained model, as `check` does against TRAIN."""
    return _match(classes, "the model", test, [])


def _match(classes, owner, test, problems):
    """Warnings about TEST, given the classes of `owner`, TRAIN or a model. `problems` are those known so far."""
    problems = problems + test.problems
    spelling = {name.casefold(): name for name in classes}
    unknown = [name for name in test.classes if name not in classes] if classes else []
    for name in unknown:
        where = printable(os.path.join(test.folder, name))
        if name.casefold() in spelling:
            problems.append(f"{where}: in {owner} this class is spelt {spelling[name.casefold()]}: rename one of them.")
        else:
            problems.append(f"{where}: {owner} has no class of this name: rename the folder, or delete it.")
    if problems:
        raise DataError(problems)
    untested = [name for name in classes if name not in test.photos]
    return test.notes + [f"{printable(test.folder)} has no photos of {name}: it is not tested." for name in untested]


def load(listings, classes, size):
    """Decode the photos of all listings, on all cores. Returns `Photos` of size x size pixels for each listing.

    A label is the place of the photo's class in `classes`. Raises `DataError` with every unusable photo of them all.
    """
    from tqdm import tqdm

    paths = [path for listing in listings for path in listing.paths]
    pixels = np.empty((len(paths), size, size, 3), np.uint8)

    def decode(i):
        try:
            pixels[i] = photo.decode(photo.read(paths[i]), size)
        except photo.PhotoError as error:
            return f"{printable(paths[i])}: {error}."
        return None

    with ThreadPoolExecutor(cores()) as pool:  # threads: Pillow lets go of Python's lock while it decodes and resizes
        outcomes = tqdm(pool.map(decode, range(len(paths))), "photos", len(paths), leave=False, disable=None)
        problems = [problem for problem in outcomes if problem]
    if problems:
        raise DataError(problems)

    sets, start = [], 0
    for listing in listings:
        labels = [classes.index(name) for name, photos in listing.photos.items() for _ in photos]
        end = start + len(labels)
        sets.append(Photos(pixels[start:end], np.array(labels, np.int64), paths[start:end], list(classes)))
        start = end
    return sets


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
