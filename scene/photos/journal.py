"""The undo file: a line for each photo that is copied or moved, written before it is touched.

    action,sha256,modified,from,to
    root,,,/home/me/photos,                     a folder that photos were taken from
    folder,,,,coast                             a folder made in INTO
    move,9f86d0…,1764192868000000000ns,/home/me/photos/a.jpg,coast/a.jpg
    end,,,,                                     every photo was seen; without it, the run was cut off

`from` is a full path and `to` is relative to the undo file's folder, INTO, which may be renamed. Paths are
percent-encoded (`quote`), so that a line of the file is a line of the table, whatever a file is called.

Next: sort.py
"""

import csv
import errno
import io
import os
import re
import time
from contextlib import suppress
from glob import escape, glob
from typing import NamedTuple

from scene import files
from scene.errors import UserError, printable

TEMPORARY = ".scene"        # how the names of half-written files begin, in every folder
ACTIONS = {"root", "folder", "copy", "move", "end"}


class JournalError(UserError):
    """Not an undo file, or a damaged one."""


class Record(NamedTuple):
    """A line of an undo file.   modified: the photo's time of modification, in nanoseconds since 1970."""

    action: str
    sha256: str = ""
    modified: int = 0
    source: str = ""
    target: str = ""


HEADER = ["action", "sha256", "modified", "from", "to"]


def quote(path: str) -> str:
    r"""A path or name as text for a CSV file, from which `unquote` makes exactly the same path.

    Percent-encodes `%`, what cannot be printed, such as line breaks, bytes that are not UTF-8, and a first
    character that would make a spreadsheet take the name for a formula: "=x\n" becomes "%3Dx%0A".
    """
    def encoded(c, first):
        plain = c.isprintable() and c != "%" and not (first and c in "=+-@")
        return c if plain else "".join(f"%{byte:02X}" for byte in os.fsencode(c))

    return "".join(encoded(c, i == 0) for i, c in enumerate(path))


def unquote(text: str) -> str:
    """The path that `quote` made this text of."""
    return re.sub("(?:%[0-9A-F]{2})+", lambda run: os.fsdecode(bytes.fromhex(run[0].replace("%", ""))), text)


def line(row) -> bytes:
    """A row of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def encode(record: Record) -> bytes:
    """A record as a line."""
    modified = f"{record.modified}ns" if record.modified else ""        # no spreadsheet rounds "…ns"
    return line([record.action, record.sha256, modified, quote(record.source), quote(record.target)])


def decode(row: list[str]) -> Record:
    """A row as a record. Raises ValueError."""
    action, sha256, modified, source, target = row
    if action not in ACTIONS or action in ("copy", "move") and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("no such action, or no SHA-256")
    return Record(action, sha256, int(modified.removesuffix("ns") or 0), unquote(source), unquote(target))


def read(path: str) -> list[Record]:
    """The records of an undo file, whose paths may be used. Raises JournalError or OSError."""
    records = parse(path)
    check(path, records)
    return records


def parse(path):
    """The records of an undo file. Raises JournalError or OSError.

    A last line without a line break was cut off while it was written. Nothing was done after it.
    """
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    number = 1
    records = []
    try:
        rows = csv.reader([each.decode() for each in lines])
        if next(rows, None) != HEADER:
            raise ValueError("another header")
        for number, row in enumerate(rows, 2):      # noqa: B007  (for the message)
            records.append(decode(row))             # noqa: PERF401
    except (ValueError, csv.Error) as error:
        raise JournalError(f"{printable(path)} is not an undo file, or damaged in line {number}: nothing was "
                           "changed.") from error
    return records


def check(path, records):
    """Raises JournalError if a record names a path outside of INTO and the folders that were sorted."""
    into = os.path.realpath(os.path.dirname(path))
    roots = roots_of(records)
    for number, record in enumerate(records, 2):
        if not is_inside(record, into, roots):
            raise JournalError(f"{printable(path)}, line {number}: a path leads out of the folders that were "
                               "sorted. Nothing was changed.")


def is_inside(record, into, roots):
    """Whether a record names only what is in INTO and in the folders that photos were taken from."""
    if record.action == "end":
        return True
    if record.action == "root":
        return os.path.isabs(record.source)
    parts = record.target.split("/")
    if not all(map(is_name, parts)) or os.path.islink(os.path.join(into, parts[0])):
        return False
    if record.action == "folder":
        return len(parts) == 1
    folder = os.path.dirname(record.source)
    return (len(parts) == 2 and record.source == os.path.abspath(record.source)
            and any(lies_in(root, os.path.realpath(folder)) for root in roots)
            and not files.contains(into, folder))


def is_name(part):
    """Whether a part of a path is a plain name. Only Windows has a separator other than "/"."""
    return part not in ("", ".", "..") and "\0" not in part and os.path.basename(part) == part


def lies_in(folder, path):
    """Whether a real path is a folder's, or one in it."""
    return path == folder or path.startswith(os.path.join(folder, ""))


def roots_of(records: list[Record]) -> list[str]:
    """The folders that photos were taken from."""
    return [record.source for record in records if record.action == "root"]


class Journal:
    """An undo file that is being written. The file is made when the first record is noted.

    into    the folder that it is in, which photos are sorted into
    roots   the folders that photos are taken from
    last    the last record of the interrupted run that this one continues, or None
    """

    def __init__(self, into: str, roots: list[str]):
        self.into = into
        self.roots = roots
        self.path, self.last = find_interrupted(into, roots)
        self.file = None

    def note(self, record: Record, durable: bool = False) -> None:
        """Adds a record. If durable, it is on the disk when this returns. Raises OSError."""
        if self.file is None:
            self.open()
        data = encode(record)
        if self.file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        if durable:
            files.sync(self.file)

    def open(self):
        """Opens the file for appending. A new one gets its name when it is whole."""
        if self.path is None:
            self.path = self.create()
        else:
            drop_torn_line(self.path)
        self.file = open(self.path, "ab", buffering=0)      # noqa: SIM115  (`close` closes it)
        files.sync_folder(self.into)

    def create(self):
        """Writes a file with header and roots, and returns its path."""
        name = os.path.join(self.into, f"undo_{time.strftime('%Y-%m-%d_%H%M%S')}.csv")
        with files.temporary(os.path.join(self.into, TEMPORARY)) as file:
            file.write(line(HEADER) + b"".join(encode(Record("root", source=root)) for root in self.roots))
            file.flush()
            files.sync(file)
            for path in files.numbered(name):
                with suppress(FileExistsError):
                    files.move(file.name, path)
                    break
        return path

    def end(self) -> None:
        """Marks that the run saw every photo, and closes the file."""
        if self.path is not None:
            self.note(Record("end"), durable=True)
        self.close()

    def close(self) -> None:
        """Closes the file. Without an `end`, the same command continues it."""
        if self.file is not None:
            self.file.close()


def find_interrupted(into, roots):
    """The undo file of a run that was cut off, and its last record: -> (path, record), or (None, None).

    It had these roots, and perhaps others: of files named by a pattern, the first ones may have moved.
    """
    for path in sorted(glob(os.path.join(escape(into), "undo_*.csv")), reverse=True):
        with suppress(OSError, JournalError):
            records = parse(path)
            if records and records[-1].action != "end" and set(roots) <= set(roots_of(records)):
                check(path, records)
                return path, records[-1]
    return None, None


def drop_torn_line(path):
    """Cuts off a last line that has no line break."""
    with open(path, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def close_interrupted(path: str, records: list[Record]) -> None:
    """Marks the undo file of an interrupted run as ended, so that no later run continues it."""
    if not records or records[-1].action != "end":
        drop_torn_line(path)
        with open(path, "ab") as file:
            file.write(encode(Record("end")))
