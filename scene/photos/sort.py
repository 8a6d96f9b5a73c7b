"""Sorts photos into folders, INTO/<class>/photo.jpg, as copies or by moving them.

Killed at any moment, it loses no photo and leaves none half-written, and the same command finishes the work:

    copy    write a temporary file, flush it to the disk, compare, give it its name
    move    a line in the undo file, flushed to the disk; then rename
            or, across file systems, copy as above, and delete the first file when both are found equal

No step overwrites a file. `undo.py` takes it all back.

Next: undo.py
"""

import hashlib
import os
import platform
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC, EROFS, EXDEV

from scene import files
from scene.errors import UserError, printable
from scene.locks import Locked, locked
from scene.photos.gather import Inputs
from scene.photos.journal import TEMPORARY, Journal, Record
from scene.signals import postponed

UNSURE = "unsure"                       # the folder for photos that the model is not sure about
NO_ROOM = {ENOSPC, EDQUOT, EROFS}       # what every photo after this one would meet, too
OTHER = "choose another folder"


class LeftInPlace(Exception):
    """A photo that cannot be sorted, or need not be. The message says why."""


class AlreadyThere(LeftInPlace):
    """The same photo is in its folder already. The message is its path."""


class Sorter:
    """Puts photos into INTO/<folder>/.

    into       the real path of INTO
    move       whether to move the photos, or to copy them
    continues  whether an earlier run was cut off, and this one adds to its undo file
    """

    def __init__(self, into: str, roots: list[str], move: bool):
        self.into = into
        self.move = move
        self.journal = Journal(into, roots)
        self.continues = self.journal.path is not None      # a run that was cut off

    def put(self, path: str, sha256: str, folder: str) -> str:
        """Sorts a photo whose bytes have this SHA-256 into a folder of INTO. Returns its new path.

        A stop signal waits until it is done. Raises LeftInPlace, and OSError if no other photo would fare
        better.
        """
        with postponed():
            try:
                check_unchanged(path, sha256)
                return self.put_at_free_name(path, sha256, folder)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise
                raise LeftInPlace(f"cannot be sorted: {error.strerror}") from error

    def put_at_free_name(self, path, sha256, folder):
        """Sorts a photo under its own name or, if another photo has that, under a numbered one."""
        place = os.path.join(self.into, folder)
        if not os.path.lexists(place):
            self.journal.note(Record("folder", target=folder))
            os.mkdir(place)
        for target in files.numbered(os.path.join(place, os.path.basename(path))):
            if not os.path.lexists(target):
                with suppress(FileExistsError):         # another program has just taken the name
                    self.put_at(path, sha256, target)
                    break
            check_not_there(target, sha256)
        return target

    def put_at(self, path, sha256, target):
        """Notes what follows, and does it."""
        source = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        name = "/".join(os.path.relpath(target, self.into).split(os.sep))
        action = "move" if self.move else "copy"
        record = Record(action, sha256, os.stat(path).st_mtime_ns, source, name)
        self.journal.note(record, durable=self.move)
        (move if self.move else copy)(path, target, sha256)

    def recover(self):
        """Finishes the move that an interrupted run was cut off in, and deletes its temporary files."""
        for folder in [self.into, *subfolders(self.into)]:
            files.sweep(os.path.join(folder, TEMPORARY))
        last = self.journal.last
        if last and last.action == "move":
            target = os.path.join(self.into, *last.target.split("/"))
            with suppress(LeftInPlace, OSError):
                drop(last.source, target, last.sha256)


class Rehearsal:
    """Says what a Sorter would do, and changes nothing."""

    continues = False

    def __init__(self, into: str):
        self.into = into
        self.taken = {}

    def put(self, path: str, sha256: str, folder: str) -> str:
        """Returns the path that the photo would get. Raises LeftInPlace."""
        check_unchanged(path, sha256)
        for target in files.numbered(os.path.join(self.into, folder, os.path.basename(path))):
            if target not in self.taken and not os.path.lexists(target):
                break
            check_not_there(target, sha256, self.taken)
        self.taken[target] = sha256
        return target


def check_unchanged(path, sha256):
    """Raises LeftInPlace unless a path is still that of the file that was classified."""
    if os.path.islink(path):
        raise LeftInPlace("a link, which is not followed")
    if digest(path) != sha256:
        raise LeftInPlace("changed while photos were being sorted")


def check_not_there(target, sha256, planned=()):
    """Raises AlreadyThere if target has these bytes, or is planned to have them."""
    if sha256 == (planned[target] if target in planned else digest(target)):
        raise AlreadyThere(target)


# Steps


def digest(path: str) -> str | None:
    """The SHA-256 of a file in hex, or None if there is no regular file. Links are not followed."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def copy(path: str, target: str, sha256: str) -> None:
    """Copies a file with its times to a free name. Raises LeftInPlace, FileExistsError or OSError."""
    with files.temporary(os.path.join(os.path.dirname(target), TEMPORARY)) as file:
        with open(path, "rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)
        file.flush()
        with suppress(OSError):                 # not every file system has permissions
            shutil.copystat(path, file.name)
        files.sync(file)
        if digest(file.name) != sha256:
            raise LeftInPlace("changed while photos were being sorted")
        files.move(file.name, target)


def move(path: str, target: str, sha256: str) -> None:
    """Moves a file to a free name, also on another file system. Raises as `copy` does."""
    try:
        files.move(path, target)
    except OSError as error:
        if error.errno != EXDEV:
            raise
        copy(path, target, sha256)
        try:
            drop(path, target, sha256)
        except (LeftInPlace, OSError):
            drop(target, path, sha256)          # unless the first file has changed: then both stay
            raise


def drop(path: str, kept: str, sha256: str) -> None:
    """Deletes a file whose bytes are at another path, too. Raises LeftInPlace or OSError."""
    if not digest(path) == digest(kept) == sha256:
        raise LeftInPlace("changed while photos were being sorted")
    if os.path.samefile(path, kept) and os.stat(path).st_nlink < 2:
        raise LeftInPlace("the same file by another path")
    os.unlink(path)


# Before the first step


@contextmanager
def sorting(into: str, inputs: Inputs, classes: Sequence[str], move: bool) -> Iterator[Sorter]:
    """A Sorter for photos of these classes. Nobody else sorts into INTO meanwhile. Raises UserError, OSError.

    If the block ends in an exception, the same command continues.
    """
    into = check(into, inputs, classes)
    made = not os.path.exists(into)
    os.makedirs(into, exist_ok=True)
    try:
        with claimed(into):
            sorter = Sorter(into, inputs.roots, move)
            try:
                sorter.recover()
                yield sorter
                sorter.journal.end()
            finally:
                sorter.journal.close()
    finally:
        if made:
            with suppress(OSError):             # there is something in it, as there should be
                os.rmdir(into)


def rehearse(into: str, inputs: Inputs, classes: Sequence[str]) -> Rehearsal:
    """A Rehearsal of the same sorting. Raises UserError."""
    return Rehearsal(check(into, inputs, classes))


@contextmanager
def claimed(into):
    """Keeps others from sorting photos into a folder, or taking them out. Raises UserError or OSError."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    note = f"process {os.getpid()} on {platform.node()}, since {since}"
    try:
        with locked(os.path.join(into, ".sorting.lock"), note):
            yield
    except Locked as error:
        raise UserError(f"Another command sorts photos in {printable(into)} ({error}): wait until it ends, "
                        f"or {OTHER}.") from error


def check(into, inputs, classes):
    """The real path of INTO. Raises UserError unless photos of these classes can be sorted into it."""
    real = os.path.realpath(into)
    if os.path.lexists(real) and not os.path.isdir(real):
        raise UserError(f"{printable(into)} is not a folder: {OTHER}.")
    for named in inputs.folders:
        if files.contains(named, real) or files.contains(real, named):
            raise UserError(f"{printable(into)} and {printable(named)} lie in one another: {OTHER} to sort "
                            "into.")
    for named in inputs.files:
        if files.contains(real, os.path.dirname(os.path.realpath(named))):
            raise UserError(f"{printable(named)} lies in {printable(into)}: {OTHER} to sort into.")
    check_classes(classes)
    for name in [*classes, UNSURE]:
        place = os.path.join(real, name)
        if os.path.islink(place) or os.path.lexists(place) and not os.path.isdir(place):
            raise UserError(f"{printable(place)} is a link or a file, but photos of {printable(name)} would "
                            f"be sorted into a folder of that name: {OTHER}.")
    return real


def check_classes(classes):
    """Raises UserError if two classes, or a class and UNSURE, would share a folder on Windows or a Mac."""
    first = {UNSURE: None}
    for name in classes:
        key = unicodedata.normalize("NFC", name).casefold().rstrip(". ")
        if first.setdefault(key, name) is None:
            raise UserError(f"The model has a class called {printable(name)}, but --sort needs that name for "
                            "photos that the model is not sure about: rename the class's folder and train "
                            "again.")
        if first[key] != name:
            raise UserError(f"The model's classes {printable(first[key])} and {printable(name)} would share "
                            "a folder on Windows or a Mac: rename one and train again.")


def subfolders(folder):
    """The paths of the folders in a folder. Links are none."""
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
