"""Class folders -> pixels and labels. Finds every defect before training starts.

A data set is a folder with one subfolder for each class:

    train/ocean/001.jpg    train/ocean/002.jpg    train/road/a.png    …

`scan` looks at the names, `check` at what TRAIN and TEST say together, `load` at the photos. What is wrong is collected, and
only `load` raises it: nobody should learn of the second defect only after mending the first.

Next: nn/arrays.py
"""

import os
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from scene import photo
from scene.command import UserError, printable

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp")
HEIC = (".heic", ".heif")


class DataError(UserError):
    """What is wrong with the folders and the photos. `problems`: a sentence for each, with its path."""

    def __init__(self, problems):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Listing:
    """What `scan` found: classes and files sorted by name, whatever their order on the disk."""

    folder: str
    photos: dict[str, list[str]] = field(default_factory=dict)      # class name -> paths
    skipped: Counter = field(default_factory=Counter)               # suffix, or "hidden", "folder", "no suffix" -> how many
    problems: list[str] = field(default_factory=list)               # sentences: why the folder cannot be used
    notes: list[str] = field(default_factory=list)                  # sentences: what its owner may want to know

    @property
    def classes(self):
        """The names of the classes."""
        return list(self.photos)

    @property
    def paths(self):
        """The paths of all photos, class by class."""
        return [path for paths in self.photos.values() for path in paths]


@dataclass(frozen=True)
class Photos:
    """Decoded photos: pixels (N, S, S, 3) uint8, labels (N,) int64 that index `classes`, and the path of each photo."""

    pixels: np.ndarray
    labels: np.ndarray
    paths: list[str]
    classes: list[str]


def scan(folder):
    """The Listing of a folder of class folders. What is wrong stands in there, nothing is raised."""
    listing = Listing(os.fspath(folder))
    shown = printable(folder)
    try:
        folders, loose = entries(folder, listing.skipped)
    except OSError as error:
        listing.problems.append(unreadable(folder, error))
        return listing
    for path in sorted(folders, key=class_name):
        scan_class(path, listing)
    if not folders:
        listing.problems.append(f"{shown} holds no class folders: make a folder of photos for each class in it.")
    if loose:
        listing.notes.append(f"{shown}: passed over {count(loose, 'photo')} beside the class folders: move them into their classes.")
    if heic := sum(listing.skipped[suffix] for suffix in HEIC):
        advice = "export them as JPEG; a phone takes JPEG once its camera is set to Most Compatible"
        listing.notes.append(f"{shown}: passed over {heic} HEIC photos: {advice}.")
    return listing


def scan_class(folder, listing):
    """Adds a class folder to the listing."""
    name, shown = class_name(folder), printable(folder)
    if name in listing.photos:
        listing.problems.append(f"{shown}: two folders have this name, its letters encoded in two ways: make them one.")
    if name != printable(name):
        listing.problems.append(f"{shown}: the name of a class must be plain text: rename the folder.")
    listing.photos.setdefault(name, [])
    try:
        folders, photos = entries(folder, listing.skipped)
    except OSError as error:
        listing.problems.append(unreadable(folder, error))
        return
    listing.photos[name] += photos
    if not photos:
        listing.problems.append(f"{shown} holds no photos: put JPEG, PNG or WebP files in it, or delete the folder.")
    if folders:
        listing.skipped["folder"] += len(folders)
        listing.notes.append(f"{shown}: passed over {count(folders, 'folder')} inside the class: move their photos up into it.")


def class_name(folder):
    """The class that a folder holds: its name, as NFC. A Mac may write ü as u and two dots where others write one letter."""
    return unicodedata.normalize("NFC", os.path.basename(folder))


def entries(folder, skipped):
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


def unreadable(folder, error):
    """The sentence for a folder that cannot be listed."""
    if isinstance(error, FileNotFoundError):
        return f"{printable(folder)} does not exist: check the path."
    if isinstance(error, NotADirectoryError):
        return f"{printable(folder)} is not a folder: give one that holds a folder of photos for each class."
    return f"{printable(folder)} cannot be read: {error.strerror}."


def count(things, noun):
    """How many there are, in words: "1 photo", "2 photos"."""
    return f"1 {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def check(train, test):
    """What TRAIN and TEST, two Listings, say together: (problems, warnings), both sentences.

    Classes are matched by name. TEST may lack some of TRAIN's classes, and has none that TRAIN lacks.
    """
    problems, warnings = compare(train.classes, printable(train.folder), test)
    lonely = []
    if len(train.classes) == 1:
        only = printable(train.classes[0])
        lonely = [f"{printable(train.folder)} holds one class only, {only}: add a folder for what is not {only}."]
    return train.problems + lonely + problems, train.notes + warnings


def check_test(classes, test):
    """What TEST and the classes of a trained model say together, as `check` does for TRAIN."""
    return compare(classes, "the model", test)


def compare(classes, owner, test):
    """(problems, warnings) of TEST, given the classes of `owner`, TRAIN or a model. Without classes, there is none to miss."""
    spelling = {name.casefold(): name for name in classes}
    problems, tested = list(test.problems), set(test.classes)
    for name in sorted(tested.difference(classes)) if classes else []:
        where, meant = printable(os.path.join(test.folder, name)), spelling.get(name.casefold())
        if meant is None:
            problems.append(f"{where}: {owner} has no class of this name: rename the folder, or delete it.")
        else:
            problems.append(f"{where}: in {owner} this class is spelt {printable(meant)}: rename one of them.")
            tested.add(meant)
    untested = [printable(name) for name in classes if name not in tested] if tested else []
    return problems, test.notes + [f"{printable(test.folder)} has no photos of {name}: it is not tested." for name in untested]


def load(listings, classes, size, problems=()):
    """Photos of size x size pixels for each listing, decoded on all cores. A label is the place of the photo's class in `classes`.

    Raises DataError with the problems found so far and every unusable photo of all listings.
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

    pool = ThreadPoolExecutor(cores())          # threads: Pillow lets go of Python's lock while it decodes and resizes
    try:
        outcomes = tqdm(pool.map(decode, range(len(paths))), "photos", len(paths), leave=False, disable=None)
        problems = [*problems, *filter(None, outcomes)]
    finally:
        pool.shutdown(cancel_futures=True)      # after Ctrl-C, what has not begun never does
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
