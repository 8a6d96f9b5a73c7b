"""Divides one folder of photos into TRAIN and TEST, or into folds for cross-validation.

Every part gets its share of each class. Photos that belong together, copies and bursts, stay in one part: a
network that has seen one of them would be tested on what it knows. The same seed gives the same parts, on any
machine and in any mode. The list can be written to a CSV file, changed by hand, and given back.

Next: sets.py
"""

import csv
import hashlib
import io
import os
from collections.abc import Sequence

import numpy as np

from scene.errors import UserError, printable
from scene.photos.findings import Finding
from scene.photos.folder import Listing, count

HANDFUL = 5                 # photos of each class in TRAIN, and in TEST, at least
PARTS = "test", "train"


def divide(labels: np.ndarray, groups: np.ndarray, names: Sequence[str], targets: np.ndarray,
           seed: int) -> np.ndarray:
    """The part of each photo: (N,) int64.

    labels, groups: (N,), names: N, which with the seed decide the order, targets: (P, K), how many photos of
    each class each part should get. Large groups come first, since single photos can make up for them. Each
    group goes where most photos of its classes are missing, which brings the parts closest to their targets:
    adding s photos where d are missing changes the squared distance by s² - 2 s d.
    """
    together = {}
    for i, group in enumerate(groups.tolist()):
        together.setdefault(group, []).append(i)
    missing = np.array(targets, float)
    parts = np.empty(len(labels), np.int64)
    for group in sorted(together.values(), key=lambda group: (-len(group), shuffled(names[group[0]], seed))):
        classes, counts = np.unique(labels[group], return_counts=True)      # few, of perhaps thousands
        part = (missing[:, classes] @ counts).argmax()
        missing[part, classes] -= counts
        parts[group] = part
    return parts


def members(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """The indices of each class's photos: labels (N,) -> K arrays, each in ascending order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=classes))[:-1])


def shuffled(name, seed):
    """A key to sort by: an order that depends on the names and the seed, and on nothing else."""
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()


def split(listing: Listing, groups: dict[str, int], share: float, seed: int):
    """The listings of TRAIN and TEST, made from one, and findings.   groups: {path: its group}."""
    classes = listing.classes
    paths = listing.paths
    labels = np.array([k for k, name in enumerate(classes) for _ in listing.photos[name]], np.int64)
    counts = np.bincount(labels, minlength=len(classes))
    tested = np.clip(np.round(share * counts), HANDFUL, np.maximum(HANDFUL, counts - HANDFUL))
    parts = divide(labels, np.array([groups[path] for path in paths]), names_of(listing),
                   np.stack([tested, counts - tested]), seed)
    part = {path: PARTS[p] for path, p in zip(paths, parts, strict=True)}
    listings = take(listing, part)
    return listings, list(find_small(listing, listings))


def names_of(listing):
    """The name of each photo within its folder: "ocean/1.jpg"."""
    return [f"{name}/{os.path.basename(path)}" for name, paths in listing.photos.items() for path in paths]


def take(listing, part):
    """The listings of TRAIN and TEST.   part: {path: "train" or "test"}, for the photos to be used."""
    return [Listing(os.path.join(listing.folder, f"({word})"),
                    {name: [path for path in paths if part.get(path) == word]
                     for name, paths in listing.photos.items()})
            for word in ("train", "test")]


def find_few(listing: Listing) -> list[Finding]:
    """Errors for classes with too few photos to be divided."""
    return [Finding("error", printable(os.path.join(listing.folder, name)),
                    f"it has {count(len(paths), 'photo')}, but at least {HANDFUL} are needed to train on and "
                    f"{HANDFUL} to test on: add photos, or use --folds 5, which needs no photos for a test")
            for name, paths in listing.photos.items() if 0 < len(paths) < 2 * HANDFUL]


def find_small(listing, listings):
    """Errors for classes of which a part has too few, although there are enough photos."""
    train, test = listings
    for name, paths in listing.photos.items():
        least = min(len(train.photos[name]), len(test.photos[name]))
        if least < HANDFUL and len(paths) >= 2 * HANDFUL:
            what = (f"it cannot be divided into TRAIN and TEST: too many of its {len(paths)} photos belong "
                    "together (copies, or taken within seconds). Add others, or write a list of your own for "
                    "--split")
            yield Finding("error", printable(os.path.join(listing.folder, name)), what)


# The list as a file


def write(listing: Listing, listings: Sequence[Listing], groups: dict[str, int]) -> bytes:
    """The CSV file of a split: a line for each photo, with its set and the number of its group."""
    train, test = listings
    part = dict.fromkeys(train.paths, "train") | dict.fromkeys(test.paths, "test")
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["photo", "set", "group"])
    for path in filter(part.get, listing.paths):
        lines.writerow([inside(path, listing), part[path], groups[path]])
    return file.getvalue().encode("utf-8", "surrogateescape")


def inside(path, listing):
    """A photo's path within the folder, with slashes on every system."""
    return os.path.relpath(path, listing.folder).replace(os.sep, "/")


def read(path: str | os.PathLike) -> dict[str, str]:
    """The set of each photo in a file of `write`: {"ocean/1.jpg": "train" or "test"}.

    Raises UserError or OSError.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    where = printable(path)
    if not rows or not {"photo", "set"} <= rows[0].keys():
        raise UserError(f"{where} is not a list of photos: its first line must name the columns photo and "
                        "set, with a comma between them.")
    found = {}
    for number, row in enumerate(rows, 2):
        if row["set"] not in PARTS:
            raise UserError(f"{where}, line {number}: the set must be train or test.")
        if found.setdefault(row["photo"], row["set"]) != row["set"]:
            raise UserError(f"{where}, line {number}: {printable(row['photo'])} is in both sets.")
    return found


def follow(listing: Listing, wanted: dict[str, str], file: str | os.PathLike):
    """The listings of TRAIN and TEST, as a list of `read` wants them, and findings."""
    names = {inside(path, listing): path for path in listing.paths}
    listings = take(listing, {path: wanted[name] for name, path in names.items() if name in wanted})
    findings = []
    where = printable(file)
    if gone := [name for name in wanted if name not in names]:
        what = (f"{count(len(gone), 'photo')} of this list cannot be used or found in "
                f"{printable(listing.folder)}, such as {printable(gone[0])}: put it back, or remove its line")
        findings.append(Finding("error", where, what))
    if new := [name for name in names if name not in wanted]:
        what = (f"{count(len(new), 'photo')} of {printable(listing.folder)} left out, since not on this "
                f"list, such as {printable(new[0])}")
        findings.append(Finding("warning", where, what))
    train, test = listings
    for name in listing.classes:
        here = printable(os.path.join(listing.folder, name))
        if not train.photos[name]:
            findings.append(Finding("error", here, f"{where} has none of its photos in TRAIN: add some"))
        if not test.photos[name]:
            what = f"{where} has none of its photos in TEST, so this class is not tested"
            findings.append(Finding("warning", here, what))
    return listings, findings
