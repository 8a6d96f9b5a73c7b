"""Brings sorted photos back, by the undo file that sort.py wrote.

It may be killed and repeated. It never overwrites a file, touches only files that have the SHA-256 in the
undo file, and deletes a copy only while the photo that it was made of is still there.

Next: ../errors.py
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress

from scene import files
from scene.errors import printable
from scene.photos.journal import TEMPORARY, Record, close_interrupted, read
from scene.photos.sort import LeftInPlace, claimed, digest, drop, move
from scene.signals import postponed

MOVED = "moved back"
DELETED = "copies deleted"
BACK = "back already"
DONE = MOVED, DELETED, BACK


def undo(path: str, dry_run: bool = False,
         progress: Callable[[list], Iterable] = iter) -> Iterator[tuple[str, str, str]]:
    """Undoes what an undo file records, the last first. A dry run changes nothing.

    Yields for each photo: where it was sorted to, where it came from, and MOVED, DELETED, BACK, or why it
    cannot be brought back. `progress` wraps the list of photos. Raises UserError or OSError.
    """
    into = os.path.realpath(os.path.dirname(path))
    with nullcontext() if dry_run else claimed(into):
        records = read(path)
        photos = [record for record in reversed(records) if record.action in ("copy", "move")]
        if not dry_run:
            sweep(into, photos)
        for record in progress(photos):
            with postponed():
                what = attempt(into, record, dry_run)
            yield target_of(into, record), record.source, what
        if not dry_run:
            remove_folders(into, records)
            close_interrupted(path, records)


def attempt(into, record, dry_run):
    """Undoes a record: -> one of DONE, or why it cannot be undone."""
    try:
        return take_back(into, record, dry_run)
    except LeftInPlace as error:
        return str(error)
    except OSError as error:
        return f"cannot be brought back: {error.strerror}"


def take_back(into, record, dry_run):
    """Undoes a record, whatever was undone before: -> one of DONE. Raises LeftInPlace."""
    source = record.source
    target = target_of(into, record)
    back = digest(source) == record.sha256
    if digest(target) != record.sha256:
        there = os.path.lexists(target)
        if back and record.action == "move" or not there and record.action == "copy":
            return BACK
        gone = "changed since it was sorted" if there else "no longer there"
        raise LeftInPlace(f"{gone} (it came from {printable(source)})")
    if record.action == "copy":
        if not back:
            raise LeftInPlace(f"kept, since {printable(source)}, which it is a copy of, is gone or changed")
        if not dry_run:
            drop(target, source, record.sha256)
        return DELETED
    if back:
        if not dry_run:
            drop(target, source, record.sha256)
        return MOVED
    if os.path.lexists(source):
        raise LeftInPlace(f"left there, since another file is at {printable(source)}")
    if not dry_run:
        os.makedirs(os.path.dirname(source), exist_ok=True)
        move(target, source, record.sha256)
        restore_time(source, record.modified)
    return MOVED


def restore_time(path, modified):
    """Sets the time of modification, which a file system such as FAT has rounded."""
    with suppress(OSError):
        status = os.stat(path)
        if status.st_mtime_ns != modified:
            os.utime(path, ns=(status.st_atime_ns, modified))


def target_of(into, record):
    """The path that a record's photo was sorted to."""
    return os.path.join(into, *record.target.split("/"))


def sweep(into, records: list[Record]):
    """Deletes what killed commands left half-written."""
    folders = {os.path.dirname(record.source) for record in records}
    for folder in {into} | folders | {os.path.dirname(target_of(into, record)) for record in records}:
        files.sweep(os.path.join(folder, TEMPORARY))


def remove_folders(into, records):
    """Deletes the folders that were made for the photos, if they are empty now."""
    for record in records:
        if record.action == "folder":
            with suppress(OSError):
                os.rmdir(os.path.join(into, record.target))
