"""Atomic file writes, and the names that files can have.

Next: locks.py
"""

import errno
import glob
import itertools
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from scene.locks import is_at, lock

# File systems without fsync answer with one of these. Others, such as EIO, mean that data are lost.
CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# A file that is mounted by itself (EBUSY), that belongs to somebody else, or a file system without rename.
CANNOT_REPLACE = {errno.EBUSY, errno.EPERM, errno.EACCES, errno.EXDEV, errno.ETXTBSY, *CANNOT_SYNC}
# A file system without hard links, such as FAT; one that allows no more; or a file of somebody else's.
CANNOT_LINK = {errno.EPERM, errno.EACCES, errno.EMLINK, *CANNOT_SYNC}


def write(path: str | os.PathLike, data: bytes, overwrite: bool = True, mode: int | None = None) -> None:
    """Writes bytes to path atomically: an older file stays until the new one is on the disk.

    A symbolic link stays, and the file that it points to is written. With `overwrite`, a file that cannot be
    replaced, such as one that is mounted into a container, gets its new contents in place. `mode` are the
    file's permissions; without it, those of an older file stay. Raises OSError.
    """
    target = os.path.realpath(path)
    try:
        with temporary(target) as file:
            file.write(data)
            file.flush()
            sync(file)
            with suppress(OSError):             # there may be no older file
                os.chmod(file.name, stat.S_IMODE(os.stat(target).st_mode) if mode is None else mode)
            try:
                os.replace(file.name, target)
            except OSError as error:
                if not overwrite or error.errno not in CANNOT_REPLACE:
                    raise
                if mode is not None:
                    os.chmod(target, mode)
                write_in_place(target, data)
        sync_folder(os.path.dirname(target))
    except OSError as error:
        # The name of the temporary file would mean nothing to the user.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextmanager
def temporary(path: str) -> Iterator[BinaryIO]:
    """A new file beside path, locked as long as its writer lives, and deleted unless the block renames it."""
    while True:
        name = f"{path}.{os.urandom(4).hex()}.{os.getpid()}.part"
        file = open(name, "xb")         # noqa: SIM115
        with suppress(BlockingIOError):
            lock(file.fileno())
            if is_at(file.fileno(), name):
                break
        file.close()                    # `sweep` saw it before it was locked
    try:
        with file:
            yield file
    finally:
        with suppress(OSError):
            os.unlink(name)


def write_in_place(path: str, data: bytes) -> None:
    """Overwrites a file, or makes it. Raises OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        file.write(data)
        file.truncate()
        file.flush()
        sync(file)


def move(path: str, target: str) -> None:
    """Renames a file, and never overwrites: raises FileExistsError if something is at target.

    If it is killed, the file is at one of the two paths, or at both. Raises OSError: EXDEV if target is on
    another file system. Where a file system has no hard links, another program could take the name in the
    instant between looking and renaming. On Windows, renaming never overwrites.
    """
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.rename(path, target)
        sync_folder(os.path.dirname(target))
        return
    sync_folder(os.path.dirname(target))        # a power cut must not take both names
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass                                    # somebody else has moved it, too
    except OSError:
        os.unlink(target)
        raise


def numbered(path: str) -> Iterator[str]:
    """Names for a file whose own may be taken: photo.jpg, photo_2.jpg, photo_3.jpg, …"""
    yield path
    stem, suffix = os.path.splitext(path)
    for number in itertools.count(2):
        yield f"{stem}_{number}{suffix}"


def check_writable(path: str) -> None:
    """Raises OSError unless `write` can put a new file in the place of this one, which stays as it is."""
    try:
        open(path, "r+b").close()
    except OSError:
        replace_by_copy(path)


def replace_by_copy(path: str) -> None:
    """Replaces a file by a copy of itself. Raises OSError if it cannot be replaced."""
    with open(path, "rb") as file:
        data = file.read()
    write(path, data, overwrite=False)


def remove(path: str) -> None:
    """Deletes a file, or the file that a link points to, if there is one. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.realpath(path))


def sweep(path: str | os.PathLike) -> None:
    """Deletes the temporary files of processes that were killed while writing path, and of no others.

    A living writer holds a lock on its file, and the system frees the lock of a dead one. So nothing depends
    on process numbers, which are equal in two containers. Without locks, nothing is deleted.
    """
    path = os.path.realpath(path)
    for part in glob.glob(f"{glob.escape(path)}.*.part"):
        if re.fullmatch(r"\.[0-9a-f]{8}\.\d+\.part", part[len(path):]):
            with suppress(OSError), open(part, "r+b") as file:
                if lock(file.fileno()):
                    os.unlink(part)


def sync(file: BinaryIO) -> None:
    """Flushes a file to the disk, where the file system can. Raises OSError if that fails."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def sync_folder(folder: str) -> None:
    """Flushes a folder's entries to the disk, so that they survive a power cut.

    Many file systems cannot, such as network shares, and each has another error for it. Then the file is
    there, and only a power cut could still lose it. So no error is raised.
    """
    if os.name == "posix":
        with suppress(OSError):
            handle = os.open(folder or ".", os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def is_path_component(name: str) -> bool:
    """Whether a name can be that of a file or folder: no separator or NUL in it, and at most 255 bytes."""
    length = len(name.encode("utf-8", "surrogateescape"))
    return name not in ("", ".", "..") and not set(name) & set("/\\\0") and length <= 255


def contains(folder: str, path: str) -> bool:
    """Whether a path is a folder, or lies in it, by whatever links or spelling."""
    try:
        mine = os.stat(folder)
    except OSError:                             # what does not exist yet has nothing in it
        return False
    path = os.path.realpath(path)
    while True:
        with suppress(OSError):
            if os.path.samestat(mine, os.stat(path)):
                return True
        if path == os.path.dirname(path):
            return False
        path = os.path.dirname(path)
